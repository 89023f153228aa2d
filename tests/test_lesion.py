"""A lesion: the model, called as usual, is the one with the branches cut out by hand, gradients included."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules
from torch.utils.checkpoint import checkpoint

from blocks_at_hand import X, chained, made_of
from programs import DOUBLE
from residual import Net
from termwise import nets
from termwise.causal import Joins, lesion, without
from termwise.errors import ModelError, UsageError
from test_causal import JOINED_WITHIN, NAMES, lesioned, shaken


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    assert not modules._global_forward_pre_hooks
    assert not modules._global_forward_hooks


def more(x: Any) -> Any:
    """A batch of three where the example is of one."""
    return {k: v.repeat(3, 1) for k, v in x.items()} if isinstance(x, dict) else torch.randn(3, *x.shape[1:])


@pytest.mark.parametrize("name", NAMES)
def test_the_network_with_the_block_cut_out(name: str) -> None:
    make, example, cut = lesioned()[name]
    torch.manual_seed(0)
    model = shaken(make())
    x = more(example)

    def called(network: Any) -> Tensor:
        out = network(**x) if isinstance(x, dict) else network(x)
        return out if isinstance(out, Tensor) else out.logits

    joins = Joins(model, example)
    assert len(joins.blocks) > 1
    with torch.no_grad():
        whole = called(model)
        for chosen in range(len(joins.blocks)):
            with joins.without([chosen]):
                left = called(model)
            expected = called(cut(copy.deepcopy(model), chosen))
            torch.testing.assert_close(left, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
        assert torch.equal(called(model), whole)


class Cut(Net):
    """The residual network without its first block."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.blocks[1](x))


def test_training_under_a_lesion_is_training_the_network_that_is_left() -> None:
    model: Any = Net().train()
    by_hand: Any = Cut().train()
    by_hand.load_state_dict(model.state_dict())
    x = torch.randn(8, 6, dtype=DOUBLE)
    # The dropout of the block that is gone draws, too: one that draws nothing leaves the same random numbers.
    for network in (model, by_hand):
        network.blocks[0][3].p = network.blocks[1][3].p = 0.0
    with lesion(model, [0], example=x) as removed:
        assert [block.name for block in removed] == ["blocks.0"]
        model(x).square().sum().backward()
    by_hand(x).square().sum().backward()
    for (name, weight), other in zip(model.named_parameters(), by_hand.parameters(), strict=True):
        if name.startswith("blocks.0"):
            assert weight.grad is None or not weight.grad.any()
        else:
            torch.testing.assert_close(weight.grad, other.grad, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(model.blocks[1].buffers(), by_hand.blocks[1].buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert model.training


IN_PLACE: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "into-the-branch": lambda m, x: m.g(m.f(x).add_(x)),
    "into-the-branch-unreturned": lambda m, x: m.g(added(m.f(x), x)),
    "into-the-shortcut": lambda m, x: m.g((1 * x).add_(m.f(x))),
    "by-operator": lambda m, x: m.g(by_operator(m.f(x), x)),
    "turned": lambda m, x: m.g(x.__rsub__(m.p(x)) + 2 * x),
    "slices": lambda m, x: m.g(torch.cat([a := (m.f(x)).chunk(2, 1)[0], x[:, :2]], 1) + 0 * a.sum()),
}


def added(branch: Tensor, x: Tensor) -> Tensor:
    branch.add_(x)
    return branch


def by_operator(branch: Tensor, x: Tensor) -> Tensor:
    branch += x
    return branch


@pytest.mark.parametrize("name", IN_PLACE)
def test_joins_of_every_spelling(name: str) -> None:
    model: Any = made_of(IN_PLACE[name])
    joins = Joins(model, X)
    assert joins.blocks
    for chosen in range(len(joins.blocks)):
        with joins.without([chosen]):
            left = model(X)
        torch.testing.assert_close(left.detach(), without(model, X, [chosen]))


@pytest.mark.parametrize("name", [name for name in JOINED_WITHIN if name != "addcmul"])
def test_a_join_inside_of_an_operator_is_refused(name: str) -> None:
    model: Any = made_of(JOINED_WITHIN[name][0])
    with pytest.raises(ModelError, match="joins inside of an operator"), lesion(model, [0], example=X):
        pass


def test_slices_of_one_branch_are_told_apart() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        a, b = m.f(x).chunk(2, dim=1)
        return m.g(torch.cat([x, a, m.p(x), b], dim=1)[:, 2:6])

    model: Any = made_of(run)
    joins = Joins(model, X)
    assert len(joins.blocks) == 2
    a, b = model.f(X).chunk(2, dim=1)
    for chosen, block in enumerate(joins.blocks):
        zero = torch.zeros_like
        parts = [X, zero(a), model.p(X), zero(b)] if block.name == "f" else [X, a, zero(model.p(X)), b]
        expected = model.g(torch.cat(parts, dim=1)[:, 2:6])
        with joins.without([chosen]):
            torch.testing.assert_close(model(X), expected)


def test_lesions_in_each_other_add_up() -> None:
    model: Any = made_of(chained)
    joins = Joins(model, X)
    with joins.without([0]), joins.without([1]):
        assert torch.equal(model(X), X)
    with lesion(model, ["p"], example=X), lesion(model, ["q"], example=X):
        assert torch.equal(model(X), X)
    assert not torch.equal(model(X), X)


def test_what_is_no_block_is_refused_with_the_list_of_blocks() -> None:
    model: Any = made_of(chained)
    for wrong in (2, -1, "h", True):
        with pytest.raises(UsageError, match="none of the 2 blocks of this model: 0 'p', 1 'q'"):
            lesion(model, [wrong], example=X).__enter__()
    expected = X + model.p(X)
    with lesion(model, ["q"], example=X):
        torch.testing.assert_close(model(X), expected)
    with pytest.raises(UsageError, match="no residual branches"):
        lesion(made_of(lambda m, x: m.f(x)), [0], example=X).__enter__()
    with pytest.raises(UsageError, match=r"nn\.Module"):
        Joins(lambda x: x, X)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="DataParallel"):
        Joins(nn.DataParallel(model), X)


def test_a_program_that_goes_another_way_is_refused() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        v = x + m.p(x)
        return v + m.q(v) if len(x) == len(X) else (v - m.q(v) if len(x) == 1 else v)

    model: Any = made_of(run)
    expected = X + model.q(X)
    with lesion(model, [0], example=X):
        for count in (1, 2):
            with pytest.raises(ModelError, match="another way than on the example"):
                model(X[:count])
        assert torch.equal(model(X), expected)

    def longer(m: Any, x: Tensor) -> Tensor:
        v = x + m.p(x)
        return v if len(x) == len(X) else v + m.q(v)

    model: Any = made_of(longer)
    with lesion(model, [0], example=X), pytest.raises(ModelError, match="went on to add"):
        model(X[:1])


def test_a_part_of_the_model_by_itself_is_refused() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        v = x + checkpoint(m.p, x, use_reentrant=False)
        return v + m.q(v)

    model: Any = made_of(run)
    with lesion(model, ["q"], example=X):
        with pytest.raises(ModelError, match="'p' runs by itself"):
            model.p(X)
        with pytest.raises(ModelError, match="gradient checkpointing"):
            model(X).sum().backward()
    with lesion(made_of(chained), [0], example=X):
        model(X).sum().backward()  # another model is left alone


def test_after_an_error_everything_is_as_it_was() -> None:
    model = nets.resnet(8, width=4).eval()
    x = torch.randn(2, 3, 8, 8)
    whole = model(x)
    keys = {name: dict(vars(module)) for name, module in model.named_modules()}
    with pytest.raises(ZeroDivisionError), lesion(model, [0, 2], example=x):
        with pytest.raises(RuntimeError):
            model(torch.randn(2, 5, 8, 8))
        assert not torch.equal(model(x), whole)
        raise ZeroDivisionError
    assert torch.equal(model(x), whole)
    assert keys == {name: vars(module) for name, module in model.named_modules()}
    assert not torch.overrides._get_current_function_mode_stack()
