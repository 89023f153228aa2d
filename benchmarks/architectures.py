"""Hugging Face architectures with small random configurations: a class, the sizes that its configuration names, inputs.

Nothing is downloaded.  Two layers, tens of features: what is asked is which operators an architecture is made of.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.examine import Subject

Inputs = dict[str, Tensor]
WORDS, LENGTH = 99, 9


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def tokens() -> Inputs:
    """Two sentences, the second of which is padded."""
    ids = torch.randint(5, WORDS, (2, LENGTH), generator=_generator())
    mask = torch.ones_like(ids)
    mask[1, -3:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def bare_tokens() -> Inputs:
    """Two sentences of one length."""
    return {"input_ids": tokens()["input_ids"]}


def two_texts() -> Inputs:
    """A padded source, and the start of a target."""
    return {**tokens(), "decoder_input_ids": tokens()["input_ids"].flip(1)[:, :5]}


def images(size: int = 32, channels: int = 3) -> Callable[[], Inputs]:
    """One image."""
    return lambda: {"pixel_values": torch.randn(1, channels, size, size, generator=_generator())}


def video(size: int = 16, frames: int = 4) -> Callable[[], Inputs]:
    """One clip."""
    return lambda: {"pixel_values": torch.randn(1, frames, 3, size, size, generator=_generator())}


def sound(length: int = 1000) -> Inputs:
    """One stretch of sound."""
    return {"input_values": torch.randn(1, length, generator=_generator())}


def spectrum(frames: int, bands: int, name: str = "input_features", *, by_time: bool = True) -> Callable[[], Inputs]:
    """One spectrogram."""
    shape = (1, frames, bands) if by_time else (1, bands, frames)
    return lambda: {name: torch.randn(shape, generator=_generator())}


def spoken(inputs: Callable[[], Inputs]) -> Callable[[], Inputs]:
    """A sound or an image, and the start of a text."""
    return lambda: {**inputs(), "decoder_input_ids": tokens()["input_ids"][:1, :5]}


def captioned(size: int = 32) -> Callable[[], Inputs]:
    """One text and one image."""
    return lambda: {**{name: x[:1] for name, x in tokens().items()}, **images(size)()}


def _build(name: str, sizes: dict[str, Any], inputs: Callable[[], Inputs]) -> tuple[nn.Module, Inputs]:
    import transformers

    cls = getattr(transformers, name)
    return cls(cls.config_class(**sizes)), inputs()


def _architecture(name: str, inputs: Callable[[], Inputs], output: Any = None, **sizes: Any) -> Subject:
    return Subject(name, functools.partial(_build, name, sizes, inputs), output)


def _llama_like(name: str, inputs: Callable[[], Inputs] = tokens, output: Any = None, **more: Any) -> Subject:
    """Decoders whose configuration has Llama's names."""
    sizes = dict(
        vocab_size=WORDS,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    return _architecture(name, inputs, output, **{**sizes, **more})


def _bert_like(name: str, inputs: Callable[[], Inputs] = tokens, output: Any = None, **more: Any) -> Subject:
    """Encoders whose configuration has BERT's names; vision transformers have them too."""
    sizes = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    if inputs in (tokens, bare_tokens):
        sizes |= dict(vocab_size=WORDS, max_position_embeddings=64)
    return _architecture(name, inputs, output, **{**sizes, **more})


def _bart_like(name: str, inputs: Callable[[], Inputs] = two_texts, **more: Any) -> Subject:
    """Encoder-decoders whose configuration has BART's names."""
    sizes = dict(
        vocab_size=WORDS,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=64,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
    )
    return _architecture(name, inputs, **{**sizes, **more})


def _t5_like(name: str, **more: Any) -> Subject:
    sizes = dict(vocab_size=WORDS, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0)
    return _architecture(name, two_texts, **{**sizes, **more})


def _wav_like(name: str, **more: Any) -> Subject:
    """Sound encoders whose configuration has wav2vec 2.0's names."""
    sizes = dict(
        vocab_size=20,
        conv_dim=(16, 16, 16),
        conv_stride=(5, 2, 2),
        conv_kernel=(10, 3, 3),
        num_feat_extract_layers=3,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=4,
    )
    return _bert_like(name, sound, **{**sizes, **more})


def _deep(**sizes: Any) -> dict[str, Any]:
    """The configuration of one tower."""
    return dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4) | sizes


_TEXT = _deep(vocab_size=WORDS, max_position_embeddings=64, eos_token_id=98, bos_token_id=97, pad_token_id=0)
_VISION = _deep(image_size=32, patch_size=8)
_STAGES = dict(embed_dim=8, depths=(1, 1), num_heads=(2, 2), window_size=4, image_size=32, patch_size=4)
_EXPERTS = dict(num_experts=4, num_local_experts=4, num_experts_per_tok=2)

LANGUAGE = [
    _architecture("GPT2LMHeadModel", tokens, vocab_size=WORDS, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    _architecture(
        "GPTNeoForCausalLM",
        tokens,
        vocab_size=WORDS,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=4,
        max_position_embeddings=64,
    ),
    _architecture(
        "GPTJForCausalLM", tokens, vocab_size=WORDS, n_embd=32, n_layer=2, n_head=4, rotary_dim=4, n_positions=64
    ),
    _bert_like("GPTNeoXForCausalLM"),
    _architecture("GPTBigCodeForCausalLM", tokens, vocab_size=WORDS, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    _architecture(
        "CodeGenForCausalLM", tokens, vocab_size=WORDS, n_embd=32, n_layer=2, n_head=4, rotary_dim=4, n_positions=64
    ),
    _architecture("OpenAIGPTLMHeadModel", tokens, vocab_size=WORDS, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    _architecture("CTRLLMHeadModel", tokens, vocab_size=WORDS, n_embd=32, n_layer=2, n_head=4, dff=48, n_positions=64),
    _architecture(
        "OPTForCausalLM",
        tokens,
        vocab_size=WORDS,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=48,
        max_position_embeddings=64,
        word_embed_proj_dim=16,
    ),
    _architecture("BloomForCausalLM", tokens, vocab_size=WORDS, hidden_size=32, n_layer=2, n_head=4),
    _llama_like("LlamaForCausalLM"),
    _llama_like("MistralForCausalLM", sliding_window=4),
    _llama_like("MixtralForCausalLM", **_EXPERTS),
    _llama_like("Qwen2ForCausalLM"),
    _llama_like(
        "Qwen2MoeForCausalLM", **_EXPERTS, moe_intermediate_size=16, shared_expert_intermediate_size=16
    ),
    _llama_like("Qwen3ForCausalLM", head_dim=8),
    _llama_like("Qwen3MoeForCausalLM", head_dim=8, **_EXPERTS, moe_intermediate_size=16),
    _llama_like(
        "Qwen3NextForCausalLM",
        head_dim=8,
        **_EXPERTS,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        linear_num_value_heads=4,
        linear_num_key_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        layer_types=["linear_attention", "full_attention"],
    ),
    _llama_like("GemmaForCausalLM", head_dim=8),
    _llama_like("Gemma2ForCausalLM", head_dim=8, sliding_window=4),
    _llama_like("Gemma3ForCausalLM", head_dim=8, sliding_window=4),
    _llama_like("PhiForCausalLM"),
    _llama_like("Phi3ForCausalLM"),
    _llama_like("PhimoeForCausalLM", **_EXPERTS),
    _architecture(
        "FalconForCausalLM", tokens, vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, num_attention_heads=4
    ),
    _architecture(
        "FalconForCausalLM",
        tokens,
        vocab_size=WORDS,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        alibi=True,
        parallel_attn=False,
    ),
    _llama_like("StableLmForCausalLM"),
    _llama_like("OlmoForCausalLM"),
    _llama_like("Olmo2ForCausalLM"),
    _llama_like("OlmoeForCausalLM", **_EXPERTS),
    _llama_like("CohereForCausalLM"),
    _llama_like("GraniteForCausalLM"),
    _llama_like("GraniteMoeForCausalLM", **_EXPERTS),
    _llama_like("NemotronForCausalLM"),
    _llama_like("PersimmonForCausalLM"),
    _llama_like("Starcoder2ForCausalLM"),
    _llama_like("SmolLM3ForCausalLM"),
    _llama_like("GlmForCausalLM", head_dim=8),
    _llama_like("Glm4ForCausalLM", head_dim=8),
    _llama_like("HeliumForCausalLM", head_dim=8),
    _llama_like("DiffLlamaForCausalLM"),
    _llama_like("NanoChatForCausalLM"),
    _llama_like("BitNetForCausalLM"),
    _llama_like("GptOssForCausalLM", head_dim=8, sliding_window=4, **_EXPERTS),
    _llama_like("DbrxForCausalLM", d_model=32, n_heads=4, n_layers=2, max_seq_len=64),
    _llama_like("JetMoeForCausalLM", kv_channels=8, **_EXPERTS),
    _llama_like(
        "DeepseekV3ForCausalLM",
        num_key_value_heads=4,
        moe_intermediate_size=16,
        n_routed_experts=4,
        n_shared_experts=1,
        num_experts_per_tok=2,
        n_group=2,
        topk_group=1,
        first_k_dense_replace=1,
        kv_lora_rank=8,
        q_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=8,
        v_head_dim=8,
    ),
    _llama_like(
        "DeepseekV2ForCausalLM",
        num_key_value_heads=4,
        moe_intermediate_size=16,
        n_routed_experts=4,
        n_shared_experts=1,
        num_experts_per_tok=2,
        first_k_dense_replace=1,
        kv_lora_rank=8,
        q_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=8,
        v_head_dim=8,
    ),
    _architecture("MptForCausalLM", tokens, vocab_size=WORDS, d_model=32, n_heads=4, n_layers=2, max_seq_len=64),
    _architecture(
        "MambaForCausalLM", tokens, vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, state_size=4, time_step_rank=4
    ),
    _architecture(
        "FalconMambaForCausalLM",
        tokens,
        vocab_size=WORDS,
        hidden_size=32,
        num_hidden_layers=2,
        state_size=4,
        time_step_rank=4,
    ),
    _architecture(
        "Mamba2ForCausalLM",
        tokens,
        vocab_size=WORDS,
        hidden_size=32,
        num_hidden_layers=2,
        state_size=8,
        num_heads=8,
        head_dim=8,
        n_groups=1,
        chunk_size=4,
    ),
    _llama_like(
        "JambaForCausalLM",
        mamba_d_state=4,
        mamba_dt_rank=4,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
        use_mamba_kernels=False,
        **_EXPERTS,
    ),
    _llama_like(
        "BambaForCausalLM",
        mamba_n_heads=8,
        mamba_d_head=8,
        mamba_d_state=8,
        mamba_n_groups=1,
        mamba_chunk_size=4,
        attn_layer_indices=[1],
    ),
    _llama_like("RecurrentGemmaForCausalLM", lru_width=32, attention_window_size=4, block_types=["recurrent", "attention"]),
    _architecture(
        "RwkvForCausalLM", bare_tokens, vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, attention_hidden_size=32
    ),
    _llama_like("Lfm2ForCausalLM", layer_types=["conv", "full_attention"]),
    _architecture(
        "XLNetLMHeadModel", tokens, vocab_size=WORDS, d_model=32, n_layer=2, n_head=4, d_inner=48
    ),
    _architecture("XLMWithLMHeadModel", tokens, n_words=WORDS, emb_dim=32, n_layers=2, n_heads=4, pad_index=0),
    _architecture(
        "XGLMForCausalLM", tokens, vocab_size=WORDS, d_model=32, num_layers=2, attention_heads=4, ffn_dim=48
    ),
    _bert_like("BioGptForCausalLM"),
    _architecture(
        "ReformerModelWithLMHead",
        lambda: {"input_ids": torch.randint(5, WORDS, (1, 16), generator=_generator())},
        vocab_size=WORDS,
        hidden_size=32,
        num_attention_heads=4,
        attention_head_size=8,
        feed_forward_size=48,
        axial_pos_embds_dim=(16, 16),
        axial_pos_shape=(4, 4),
        attn_layers=["local", "lsh"],
        local_attn_chunk_length=4,
        lsh_attn_chunk_length=4,
        num_buckets=2,
        is_decoder=True,
        hash_seed=0,
    ),
]

ENCODERS = [
    _bert_like("BertForMaskedLM"),
    _bert_like("BertForSequenceClassification"),
    _bert_like("RobertaForMaskedLM", pad_token_id=0),
    _bert_like("XLMRobertaForSequenceClassification", pad_token_id=0),
    _bert_like("RobertaPreLayerNormForMaskedLM", pad_token_id=0),
    _bert_like("DebertaForMaskedLM", relative_attention=True, pos_att_type=["c2p", "p2c"], max_relative_positions=8),
    _bert_like(
        "DebertaV2ForMaskedLM",
        relative_attention=True,
        pos_att_type=["c2p", "p2c"],
        position_buckets=8,
        max_relative_positions=16,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        conv_kernel_size=3,
    ),
    _bert_like("ElectraForMaskedLM", embedding_size=16),
    _bert_like("AlbertForMaskedLM", embedding_size=16),
    _architecture(
        "DistilBertForMaskedLM",
        tokens,
        vocab_size=WORDS,
        dim=32,
        hidden_dim=48,
        n_layers=2,
        n_heads=4,
        max_position_embeddings=64,
    ),
    _bert_like("MPNetForMaskedLM"),
    _bert_like("MegatronBertForMaskedLM"),
    _bert_like("MobileBertForMaskedLM", embedding_size=16, intra_bottleneck_size=16, true_hidden_size=16),
    _bert_like("SqueezeBertForMaskedLM", embedding_size=32),
    _bert_like("ConvBertForMaskedLM", embedding_size=16, conv_kernel_size=3),
    _bert_like("RoFormerForMaskedLM", embedding_size=16),
    _bert_like("RemBertForMaskedLM", input_embedding_size=16, output_embedding_size=16),
    _bert_like("LongformerForMaskedLM", attention_window=[4, 4], pad_token_id=0),
    _bert_like(
        "BigBirdForMaskedLM",
        lambda: {"input_ids": torch.randint(5, WORDS, (1, 64), generator=_generator())},
        vocab_size=WORDS,
        max_position_embeddings=64,
        attention_type="block_sparse",
        block_size=4,
        num_random_blocks=1,
    ),
    _bert_like("BigBirdForSequenceClassification", attention_type="original_full"),
    _architecture(
        "FunnelForMaskedLM",
        tokens,
        vocab_size=WORDS,
        block_sizes=[1, 1],
        num_decoder_layers=1,
        d_model=32,
        n_head=4,
        d_head=8,
        d_inner=48,
    ),
    _architecture(
        "FNetForMaskedLM",
        bare_tokens,
        vocab_size=WORDS,
        hidden_size=32,
        num_hidden_layers=2,
        intermediate_size=48,
        max_position_embeddings=64,
    ),
    _bert_like("NystromformerForMaskedLM", num_landmarks=4, segment_means_seq_len=LENGTH - 1),
    _bert_like("YosoForMaskedLM"),
    _bert_like("MraForMaskedLM"),
    _bert_like("ErnieForMaskedLM"),
    _bert_like("EsmForMaskedLM", pad_token_id=1, mask_token_id=2),
    _bert_like("EsmForMaskedLM", pad_token_id=1, mask_token_id=2, position_embedding_type="rotary"),
    _bert_like("IBertForMaskedLM", pad_token_id=0),
    _bert_like("LukeForMaskedLM", entity_vocab_size=10, entity_emb_size=16, pad_token_id=0),
    _bert_like("NomicBertForMaskedLM"),
    _architecture(
        "ModernBertForMaskedLM",
        tokens,
        vocab_size=WORDS,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        global_attn_every_n_layers=2,
        local_attention=4,
        pad_token_id=0,
    ),
    _bert_like("LayoutLMForMaskedLM"),
    _bert_like("TapasModel", output="last_hidden_state"),
    _bert_like("CanineForSequenceClassification", downsampling_rate=2, local_transformer_stride=4, num_hash_buckets=50),
    _architecture(
        "FlaubertWithLMHeadModel", tokens, n_words=WORDS, emb_dim=32, n_layers=2, n_heads=4, pad_index=0
    ),
]

SEQUENCES = [
    _t5_like("T5ForConditionalGeneration"),
    _t5_like("T5ForConditionalGeneration", feed_forward_proj="gated-gelu"),
    _t5_like("MT5ForConditionalGeneration"),
    _t5_like("UMT5ForConditionalGeneration"),
    _t5_like("LongT5ForConditionalGeneration", local_radius=4),
    _t5_like("LongT5ForConditionalGeneration", encoder_attention_type="transient-global", global_block_size=4),
    _t5_like("SwitchTransformersForConditionalGeneration", num_experts=4, num_sparse_encoder_layers=1),
    _bart_like("BartForConditionalGeneration"),
    _bart_like("MBartForConditionalGeneration"),
    _bart_like("PegasusForConditionalGeneration"),
    _bart_like("PegasusXForConditionalGeneration", block_size=4, num_global_tokens=4),
    _bart_like("BigBirdPegasusForConditionalGeneration", attention_type="original_full"),
    _bart_like("MarianMTModel"),
    _bart_like("BlenderbotForConditionalGeneration"),
    _bart_like("BlenderbotSmallForConditionalGeneration"),
    _bart_like("M2M100ForConditionalGeneration"),
    _bart_like("NllbMoeForConditionalGeneration", num_experts=4, encoder_sparse_step=2, decoder_sparse_step=2),
    _bart_like("PLBartForConditionalGeneration"),
    _bart_like("MvpForConditionalGeneration"),
    _bart_like("FSMTForConditionalGeneration", src_vocab_size=WORDS, tgt_vocab_size=WORDS),
    _bart_like(
        "LEDForConditionalGeneration",
        attention_window=4,
        max_encoder_position_embeddings=64,
        max_decoder_position_embeddings=64,
    ),
    _architecture(
        "ProphetNetForConditionalGeneration",
        two_texts,
        vocab_size=WORDS,
        hidden_size=32,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_encoder_layers=2,
        num_decoder_layers=2,
        num_encoder_attention_heads=4,
        num_decoder_attention_heads=4,
        max_position_embeddings=64,
        num_buckets=8,
        relative_max_distance=16,
    ),
    _bart_like(
        "WhisperForConditionalGeneration",
        spoken(spectrum(40, 16, by_time=False)),
        num_mel_bins=16,
        max_source_positions=20,
        max_target_positions=16,
    ),
    _bart_like(
        "Speech2TextForConditionalGeneration",
        spoken(spectrum(40, 16)),
        input_feat_per_channel=16,
        conv_channels=32,
        max_source_positions=64,
        max_target_positions=16,
    ),
    _architecture(
        "MoonshineForConditionalGeneration",
        spoken(sound),
        vocab_size=WORDS,
        hidden_size=32,
        intermediate_size=48,
        encoder_num_hidden_layers=2,
        decoder_num_hidden_layers=2,
        encoder_num_attention_heads=4,
        decoder_num_attention_heads=4,
    ),
]

VISION = [
    _bert_like("ViTForImageClassification", images(), image_size=32, patch_size=8),
    _bert_like("DeiTForImageClassification", images(), image_size=32, patch_size=8),
    _bert_like("ViTMSNForImageClassification", images(), image_size=32, patch_size=8),
    _bert_like("ViTMAEModel", images(), "last_hidden_state", image_size=32, patch_size=8),
    _bert_like(
        "BeitForImageClassification",
        images(),
        image_size=32,
        patch_size=8,
        use_relative_position_bias=True,
        out_indices=[1, 2],
    ),
    _bert_like(
        "Data2VecVisionForImageClassification", images(), image_size=32, patch_size=8, use_relative_position_bias=True
    ),
    _architecture("SwinForImageClassification", images(), **_STAGES),
    _architecture("Swinv2ForImageClassification", images(), **_STAGES),
    _architecture("Swin2SRModel", images(), "last_hidden_state", **(_STAGES | dict(patch_size=1, window_size=4))),
    _architecture("DonutSwinModel", images(), "last_hidden_state", **_STAGES),
    _architecture("FocalNetForImageClassification", images(), embed_dim=8, depths=[1, 1], hidden_sizes=[8, 16],
                  focal_levels=[2, 2], focal_windows=[3, 3], image_size=32),
    _architecture("ConvNextForImageClassification", images(), hidden_sizes=[8, 16], depths=[1, 1], num_stages=2),
    _architecture("ConvNextV2ForImageClassification", images(), hidden_sizes=[8, 16], depths=[1, 1], num_stages=2),
    _architecture(
        "SegformerForSemanticSegmentation",
        images(),
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
    ),
    _bert_like("Dinov2ForImageClassification", images(), image_size=32, patch_size=8),
    _bert_like("Dinov2ForImageClassification", images(), image_size=32, patch_size=8, use_swiglu_ffn=True),
    _bert_like("Dinov2WithRegistersForImageClassification", images(), image_size=32, patch_size=8),
    _bert_like("DINOv3ViTModel", images(), "last_hidden_state", image_size=32, patch_size=8),
    _bert_like("IJepaForImageClassification", images(), image_size=32, patch_size=8),
    _architecture(
        "PoolFormerForImageClassification",
        images(),
        hidden_sizes=[8, 16],
        depths=[1, 1],
        num_encoder_blocks=2,
        patch_sizes=[7, 3],
        strides=[4, 2],
        padding=[2, 1],
    ),
    _architecture(
        "PvtForImageClassification",
        images(),
        image_size=32,
        num_encoder_blocks=2,
        depths=[1, 1],
        sequence_reduction_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[4, 2],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
    ),
    _architecture(
        "PvtV2ForImageClassification",
        images(),
        image_size=32,
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
    ),
    _architecture(
        "LevitForImageClassification",
        images(64),
        image_size=64,
        hidden_sizes=[16, 32, 48],
        num_attention_heads=[1, 2, 3],
        depths=[1, 1, 1],
        key_dim=[8, 8, 8],
    ),
    _architecture(
        "CvtForImageClassification",
        images(),
        embed_dim=[8, 16, 32],
        num_heads=[1, 2, 2],
        depth=[1, 1, 1],
    ),
    _architecture(
        "MobileViTForImageClassification",
        images(64),
        image_size=64,
        hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[8, 8, 16, 24, 32, 32, 48],
        num_attention_heads=2,
    ),
    _architecture("MobileViTV2ForImageClassification", images(64), image_size=64, width_multiplier=0.25),
    _architecture("MobileNetV1ForImageClassification", images(), image_size=32, depth_multiplier=0.25),
    _architecture("MobileNetV2ForImageClassification", images(), image_size=32, depth_multiplier=0.25),
    _architecture("EfficientNetForImageClassification", images(), image_size=32, width_coefficient=0.25),
    _architecture(
        "ResNetForImageClassification", images(), embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2]
    ),
    _architecture(
        "RegNetForImageClassification", images(), embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], groups_width=8
    ),
    _architecture(
        "BitForImageClassification", images(), embedding_size=8, hidden_sizes=[32, 64], depths=[1, 2], num_groups=4
    ),
    _architecture("SwiftFormerForImageClassification", images(64), image_size=64, embed_dims=[8, 16, 24, 32],
                  depths=[1, 1, 1, 1], mlp_ratio=2),
    _architecture("HieraForImageClassification", images(64), image_size=(64, 64), embed_dim=8, depths=[1, 1, 1],
                  num_heads=[1, 2, 4], masked_unit_size=(4, 4), query_stride=(2, 2), num_query_pool=2,
                  embed_dim_multiplier=2.0),
    _bert_like("DPTForSemanticSegmentation", images(), image_size=32, patch_size=8, backbone_out_indices=[0, 1, 1, 1],
               neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8, is_hybrid=False),
    _bert_like("DPTForDepthEstimation", images(), "predicted_depth", image_size=32, patch_size=8,
               backbone_out_indices=[0, 1, 1, 1], neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8, is_hybrid=False),
    _architecture(
        "GLPNForDepthEstimation",
        images(64),
        "predicted_depth",
        num_encoder_blocks=4,
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=8,
    ),
    _bert_like("YolosForObjectDetection", images(), image_size=[32, 32], patch_size=8, num_detection_tokens=5),
    _bert_like("VideoMAEForVideoClassification", video(), image_size=16, patch_size=8, num_frames=4),
    _bert_like("TimesformerForVideoClassification", video(), image_size=16, patch_size=8, num_frames=4),
    _bert_like("VivitForVideoClassification", video(), image_size=16, video_size=[4, 16, 16], num_frames=4,
               tubelet_size=[2, 8, 8]),
    _architecture("ImageGPTForCausalImageModeling", bare_tokens, vocab_size=WORDS + 1, n_embd=32, n_layer=2, n_head=4,
                  n_positions=64),
    _architecture(
        "SuperPointForKeypointDetection",
        images(),
        lambda found: found.keypoints,
        encoder_hidden_sizes=[8, 8, 8, 8],
        decoder_hidden_size=16,
        descriptor_decoder_dim=16,
    ),
]


def _resnet_backbone() -> Any:
    from transformers import ResNetConfig

    return ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        out_features=["stage2", "stage3", "stage4"],
    )


def _build_detector(name: str, sizes: dict[str, Any], inputs: Callable[[], Inputs]) -> tuple[nn.Module, Inputs]:
    return _build(name, {**sizes, "backbone_config": _resnet_backbone(), "use_timm_backbone": False}, inputs)


def _detr_like(name: str, **more: Any) -> Subject:
    """Detectors with a small ResNet under them."""
    sizes = dict(
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_queries=5,
        use_pretrained_backbone=False,
        backbone=None,
    )
    return Subject(name, functools.partial(_build_detector, name, {**sizes, **more}, images(64)))


DETECTION = [
    _detr_like("DetrForObjectDetection"),
    _detr_like("ConditionalDetrForObjectDetection"),
    _detr_like("TableTransformerForObjectDetection"),
    _detr_like("DeformableDetrForObjectDetection", num_feature_levels=3),
    _detr_like("DabDetrForObjectDetection", hidden_size=32),
]

AUDIO = [
    _wav_like("Wav2Vec2ForCTC"),
    _wav_like("Wav2Vec2ForSequenceClassification", feat_extract_norm="layer", do_stable_layer_norm=True),
    _wav_like("Wav2Vec2ConformerForCTC", position_embeddings_type="relative"),
    _wav_like("HubertForCTC"),
    _wav_like("WavLMForCTC", num_buckets=8, max_bucket_distance=16),
    _wav_like("UniSpeechForCTC"),
    _wav_like("UniSpeechSatForCTC"),
    _wav_like("SEWForCTC", squeeze_factor=2),
    _wav_like("SEWDForCTC", squeeze_factor=2, position_buckets=8, max_position_embeddings=16),
    _wav_like("Data2VecAudioForCTC"),
    _bert_like("ASTForAudioClassification", spectrum(24, 16, "input_values"), max_length=24, num_mel_bins=16,
               patch_size=8, frequency_stride=8, time_stride=8),
    _bert_like("Wav2Vec2BertForCTC", spectrum(20, 16), vocab_size=20, feature_projection_input_dim=16,
               position_embeddings_type="relative_key", left_max_position_embeddings=4,
               right_max_position_embeddings=4),
    _architecture("SpeechT5ForSpeechToText", spoken(sound), vocab_size=WORDS, hidden_size=32, encoder_layers=2,
                  decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48,
                  decoder_ffn_dim=48, conv_dim=(16, 16), conv_stride=(5, 2), conv_kernel=(10, 3),
                  num_feat_extract_layers=2, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4),
    _architecture("EncodecModel", lambda: {"input_values": torch.randn(1, 1, 640, generator=_generator())},
                  "audio_values", num_filters=4, hidden_size=16, codebook_size=32, codebook_dim=16,
                  upsampling_ratios=[4, 2], num_lstm_layers=1),
]

_TOWERS = dict(text_config=_TEXT, vision_config=_VISION, projection_dim=16)

MULTIMODAL = [
    _architecture("CLIPModel", captioned(), "logits_per_image", **_TOWERS),
    _architecture("SiglipModel", captioned(), "logits_per_image", text_config=_TEXT | dict(projection_size=32), vision_config=_VISION),
    _architecture("ChineseCLIPModel", captioned(), "logits_per_image", **_TOWERS),
    _architecture("AltCLIPModel", captioned(), "logits_per_image", text_config=_TEXT | dict(project_dim=16), vision_config=_VISION, projection_dim=16),
    _architecture("CLIPSegForImageSegmentation", captioned(), **_TOWERS, extract_layers=[0, 1], reduce_dim=16,
                  decoder_num_attention_heads=4, decoder_intermediate_size=32),
    _architecture("GroupViTModel", captioned(), "logits_per_image", text_config=_TEXT, projection_dim=16, projection_intermediate_dim=32,
                  vision_config=_deep(image_size=32, patch_size=8, depths=[1, 1, 1], num_group_tokens=[4, 2, 0], num_output_groups=[4, 2, 0])),
    _architecture("OwlViTModel", captioned(), "logits_per_image", **_TOWERS),
    _architecture("BlipForImageTextRetrieval", captioned(), "itm_score", text_config=_TEXT | dict(encoder_hidden_size=32), vision_config=_VISION, projection_dim=16),
    _architecture("BlipForConditionalGeneration", captioned(), text_config=_TEXT | dict(encoder_hidden_size=32), vision_config=_VISION, projection_dim=16),
    _bert_like("ViltForQuestionAnswering", captioned(), vocab_size=WORDS, image_size=32, patch_size=8, max_position_embeddings=64),
    _architecture("FlavaModel", captioned(), "multimodal_embeddings" if False else (lambda found: found.multimodal_output.last_hidden_state),
                  text_config=_TEXT, image_config=_VISION, multimodal_config=_deep(), hidden_size=32, projection_dim=16),
    _bert_like("GitForCausalLM", captioned(), vocab_size=WORDS, max_position_embeddings=64, vision_config=_VISION),
    _bert_like("LayoutLMv3ForSequenceClassification", lambda: {**{k: v[:1] for k, v in tokens().items()}, **images()(), "bbox": torch.randint(0, 9, (1, LENGTH, 4), generator=_generator()).sort(-1).values},
               vocab_size=WORDS, max_position_embeddings=64, input_size=32, patch_size=8, coordinate_size=4, shape_size=8, max_2d_position_embeddings=16),
]

FORECASTING = [
    _architecture("PatchTSTForPrediction", lambda: {"past_values": torch.randn(1, 32, 3, generator=_generator())},
                  "prediction_outputs", num_input_channels=3, context_length=32, patch_length=8, patch_stride=8,
                  d_model=16, num_hidden_layers=2, num_attention_heads=4, ffn_dim=32, prediction_length=8, loss="mse"),
    _architecture("PatchTSMixerForPrediction", lambda: {"past_values": torch.randn(1, 32, 3, generator=_generator())},
                  "prediction_outputs", num_input_channels=3, context_length=32, patch_length=8, patch_stride=8,
                  d_model=16, num_layers=2, prediction_length=8, loss="mse"),
]

def _numbered(subjects: list[Subject]) -> dict[str, Subject]:
    """By name; a second configuration of one class gets a number."""
    named: dict[str, Subject] = {}
    for subject in subjects:
        name, n = subject.name, 2
        while name in named:
            name, n = f"{subject.name} ({n})", n + 1
        named[name] = Subject(name, subject.build, subject.output)
    return named


ARCHITECTURES = _numbered([*LANGUAGE, *ENCODERS, *SEQUENCES, *VISION, *DETECTION, *AUDIO, *MULTIMODAL, *FORECASTING])
