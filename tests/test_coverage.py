"""Representatives of whole libraries: each closes, bit for bit, with every step seen and nothing linearised.

The count of steps is taken by `benchmarks.examine` from the calls of PyTorch's functions in a plain pass; the sweep
over all members is `python -m benchmarks.coverage`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.architectures import ARCHITECTURES
from benchmarks.coverage import Worker, rows_of, sweep
from benchmarks.examine import ALIVE, Row, Subject, WeightCalls, enliven, examine, undiverted
from benchmarks.libraries import timm_subject, torchvision_subject
from benchmarks.table import page

# Libraries warn of their own affairs; what the expansion would warn of is asserted here.
pytestmark = pytest.mark.filterwarnings("ignore")


def listed(names: str) -> list[str]:
    return names.split()


TIMM = listed("""
    test_resnet test_vit test_byobnet test_efficientnet test_convnext test_coatnet test_nfnet test_mambaout
    convit_tiny convmixer_768_32 cpubone_nano cs3darknet_focus_s cspnext_tiny deit_tiny_patch16_224 dla46x_c
    edgenext_xx_small efficientformerv2_s0 efficientvim_m1 efficientvit_m0 ese_vovnet19b_slim_dw fasternet_t0
    ghostnet_050 hardcorenas_a hrnet_w18_small inception_next_atto lcnet_035 legacy_seresnet18 mobilenetv3_small_050
    mobilevit_xxs mobilevitv2_050 pit_ti_224 poolformer_s12 pvt_v2_b0 regnetx_002 repghostnet_050 resnest14d
    rexnet_100 skresnet18 starnet_s050 swiftformer_xs swin_tiny_patch4_window7_224 xcit_nano_12_p16_224
""")

TORCHVISION = listed("""
    convnext_tiny densenet121 efficientnet_b0 googlenet lraspp_mobilenet_v3_large mnasnet0_5 mobilenet_v2
    mobilenet_v3_small r3d_18 regnet_x_400mf regnet_y_400mf resnet18 resnext50_32x4d shufflenet_v2_x0_5 squeezenet1_0
    swin_t swin_v2_t vit_b_32
""")

TRANSFORMERS = listed("""
    GPT2LMHeadModel GPTNeoForCausalLM GPTJForCausalLM OPTForCausalLM BloomForCausalLM LlamaForCausalLM
    MistralForCausalLM MixtralForCausalLM Qwen3NextForCausalLM Gemma3ForCausalLM FalconForCausalLM JetMoeForCausalLM
    DeepseekV3ForCausalLM MambaForCausalLM Mamba2ForCausalLM RecurrentGemmaForCausalLM RwkvForCausalLM XLNetLMHeadModel
    BertForMaskedLM DebertaV2ForMaskedLM AlbertForMaskedLM LongformerForMaskedLM BigBirdForMaskedLM FunnelForMaskedLM
    NystromformerForMaskedLM ModernBertForMaskedLM T5ForConditionalGeneration LEDForConditionalGeneration
    SwitchTransformersForConditionalGeneration ProphetNetForConditionalGeneration WhisperForConditionalGeneration
    ViTForImageClassification Swinv2ForImageClassification ConvNextV2ForImageClassification
    SegformerForSemanticSegmentation LevitForImageClassification DetrForObjectDetection
    DeformableDetrForObjectDetection Wav2Vec2ForCTC WavLMForCTC CLIPModel ViltForQuestionAnswering GroupViTModel
    AutoformerModel PatchTSTForPrediction
""")


def check(row: Row) -> None:
    assert row.status == "closed", row.reason or f"closure {row.closure:.1e}"
    assert row.input_share > ALIVE
    assert row.bit_equal
    assert row.linearised == {}
    assert row.steps_seen == row.steps_run > 0


@pytest.mark.parametrize("name", TIMM)
def test_timm(name: str) -> None:
    check(examine(timm_subject(name)))


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name: str) -> None:
    check(examine(torchvision_subject(name)))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers(name: str) -> None:
    check(examine(ARCHITECTURES[name]))


def test_a_decoder_of_discrete_codes_is_refused() -> None:
    row = examine(ARCHITECTURES["EncodecModel"])
    assert row.status == "refused"
    assert "the output is frozen" in row.reason


# The instrument itself.


def count(model: Callable[..., Any], x: Tensor) -> int:
    calls = WeightCalls(x)
    with torch.no_grad(), undiverted(), calls:
        model(x)
    return calls.count


class OfConstants(nn.Module):
    """One layer on the input, and a table made by another that never sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.unseen = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.seen(x) + self.unseen(torch.ones(4))


class Written(nn.Module):
    """A layer on a buffer that the input was written into, by a weight that went through a product."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        buffer = torch.zeros(2, 3, 4)
        buffer[0] = x[0]
        return torch.einsum("btc,dc->btd", buffer, self.weight * 2)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), 2),
        (nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval(), 4),
        (nn.LSTM(4, 5, num_layers=2, batch_first=True), 2 * (3 + 2)),
        (OfConstants(), 1),
        (Written(), 1),
        (lambda x: x @ x.transpose(1, 2), 0),
    ],
    ids=["mlp", "attention", "lstm", "constants", "written", "no-weight"],
)
def test_weight_calls_are_counted(model: Callable[..., Any], expected: int) -> None:
    assert count(model, torch.randn(2, 3, 4)) == expected


def test_every_parameter_is_moved_and_the_signal_lives() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU()]
    model = nn.Sequential(
        *layers, *[nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.SiLU()) for _ in range(20)]
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.zeros_(module.weight)
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=1e-3)
    before = [parameter.clone() for parameter in model.parameters()]
    x = torch.randn(1, 4, 8, 8)
    enliven(model, x, torch.Generator().manual_seed(0))
    assert all(bool((new != old).all()) for new, old in zip(model.parameters(), before, strict=True))
    with torch.no_grad():
        assert float(model(x).std()) > 0.05


def test_a_network_that_is_not_what_it_should_be_is_an_exception() -> None:
    dead = examine(Subject("dead", lambda: (Dead(), torch.randn(2, 4))))
    assert dead.status == "closed"
    assert not dead.clean
    broken = examine(Subject("broken", lambda: (nn.Linear(3, 3), torch.randn(2, 4))))
    assert (broken.status, broken.clean) == ("skipped", False)
    large = examine(Subject("large", lambda: (nn.Linear(4, 4), torch.randn(2, 4))), parameters=19)
    assert (large.status, large.clean) == ("skipped", False)


class Dead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * 1e-6 + 1


def test_a_network_that_takes_too_long_is_a_row() -> None:
    worker = Worker("transformers", seconds=0.01, memory=2**33)
    try:
        row = worker.examine("BertForMaskedLM")
    finally:
        worker.stop()
    assert (row["name"], row["status"]) == ("BertForMaskedLM", "skipped")
    assert "not done within" in row["reason"]


class Instant(Worker):
    """A worker that remembers what it was asked."""

    asked: list[str]

    def __init__(self) -> None:  # no process of its own
        self.asked = []

    def examine(self, name: str) -> dict[str, Any]:
        self.asked.append(name)
        return {"name": name, "status": "refused", "reason": "no"}

    def stop(self) -> None: ...


def test_a_sweep_is_taken_up_where_it_was_cut(tmp_path: Path) -> None:
    file, worker = tmp_path / "rows.jsonl", Instant()
    file.write_text(json.dumps({"name": "a"}) + "\n" + '{"name": "b", "sta')
    sweep("torch", ["a", "b", "c"], file, 1, lambda: worker)
    assert worker.asked == ["b", "c"]
    assert [row["name"] for row in rows_of(file)] == ["a", "b", "c"]
    sweep("torch", ["a", "b", "c"], file, 1, lambda: worker)
    assert worker.asked == ["b", "c"]


def test_the_page_tells_every_exception() -> None:
    common = {"versions": {"torch": "2", "timm": "1"}, "closure": 1e-7, "input_share": 1.0, "calls": 50}
    rows = [
        {**common, "name": "good", "status": "closed", "bit_equal": True, "steps_seen": 3, "steps_run": 3},
        {**common, "name": "miscounted", "status": "closed", "bit_equal": True, "steps_seen": 2, "steps_run": 3},
        {**common, "name": "affine", "status": "closed", "bit_equal": True, "linearised": {"aten.odd": 5}},
        {**common, "name": "unanswered", "status": "refused", "reason": "frozen | why"},
    ]
    text = page({"timm": rows}, {"parameters": 1e8, "seconds": 60, "memory": 8})
    assert "| timm 1 (torch 2) | 4 | 3 | 3 | 2 | 5 of 150 | 1 | 0 | 0 | 1.0e-07 |" in text
    assert "1 of 4 without exception" in text
    assert "| good |" not in text
    assert "| miscounted | closed | 2 steps seen, 3 run |" in text
    assert "| affine | closed | linearised: aten.odd (5), of 50 calls |" in text
    assert "| unanswered | refused | frozen \\| why |" in text
