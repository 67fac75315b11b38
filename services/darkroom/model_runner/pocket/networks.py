"""The networks of pocket-image: a tiny FLUX in the classes that big ones use.

In: a seed. Out: fresh networks, tokenizers and the sampler, together a `diffusers.FluxPipeline`. Next: `train` teaches
them, `export` writes them.
"""

import collections
import itertools
import string
from typing import NamedTuple

import diffusers
import torch
import transformers

from darkroom.model_runner.pocket import scenes

TOKENS_MAX = 20
"""Length to which prompts are padded; the longest prompt of the world has 15 tokens with its end mark."""

WIDTH = 128
"""Width of the transformer and of the T5 embeddings."""

POOLED_WIDTH = 64
"""Width of the CLIP text encoder."""

ORDER_BIAS = 3.0
"""How much two of T5's heads prefer earlier, or later, words at the start: by e ** 6."""

_END = "</w>"
"""Marks a word's last piece. The library's own trainer breaks ties by chance: two runs differ in the numbers of "of" and "on"."""

LATENT_CHANNELS = 4
LATENT_SIZE = scenes.SIZE_PX // 4
"""Side of the latents: the autoencoder halves the picture twice."""


class Networks(NamedTuple):
    """What is trained, and the tokenizers that feed it."""

    transformer: diffusers.FluxTransformer2DModel
    vae: diffusers.AutoencoderKL
    text_encoder: transformers.CLIPTextModel
    text_encoder_2: transformers.T5EncoderModel
    tokenizer: transformers.CLIPTokenizer
    tokenizer_2: transformers.T5TokenizerFast


def build(*, seed: int) -> Networks:
    """Make fresh networks, the same for the same seed."""
    torch.manual_seed(seed)
    tokenizer, tokenizer_2 = _clip_tokenizer(), _t5_tokenizer()
    return Networks(
        transformer=_transformer(),
        vae=_vae(),
        text_encoder=_clip(tokenizer),
        text_encoder_2=_t5(tokenizer_2),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
    )


def pipeline(networks: Networks) -> diffusers.FluxPipeline:
    """Join networks and sampler into the pipeline that is saved; sigmas are left as they come (shift 1)."""
    sampler = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=False)
    return diffusers.FluxPipeline(scheduler=sampler, **networks._asdict())


def _transformer() -> diffusers.FluxTransformer2DModel:
    """2.3 M parameters: 2 double and 4 single blocks, 4 heads of 32; starts as the identity (gates and output zero)."""
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=LATENT_CHANNELS * 4,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=32,
        num_attention_heads=WIDTH // 32,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=POOLED_WIDTH,
        guidance_embeds=False,
        axes_dims_rope=(8, 12, 12),
    )
    modulations = [
        layer.linear for block in transformer.transformer_blocks for layer in (block.norm1, block.norm1_context)
    ]
    modulations += [block.norm.linear for block in transformer.single_transformer_blocks]
    for linear in [*modulations, transformer.norm_out.linear, transformer.proj_out]:
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    return transformer


def _vae() -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 48, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=scenes.SIZE_PX,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def _clip(tokenizer: transformers.CLIPTokenizer) -> transformers.CLIPTextModel:
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=POOLED_WIDTH,
        intermediate_size=POOLED_WIDTH * 2,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=TOKENS_MAX,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return transformers.CLIPTextModel(config)


def _t5(tokenizer: transformers.T5TokenizerFast) -> transformers.T5EncoderModel:
    """Two layers: FLUX gives all text tokens one position, so word order reaches it through this encoder alone."""
    config = transformers.T5Config(
        vocab_size=len(tokenizer),
        d_model=WIDTH,
        d_kv=32,
        d_ff=WIDTH * 2,
        num_layers=2,
        num_heads=4,
        relative_attention_num_buckets=32,
        relative_attention_max_distance=32,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    encoder = transformers.T5EncoderModel(config)
    _look_both_ways(encoder)
    return encoder


@torch.no_grad()
def _look_both_ways(encoder: transformers.T5EncoderModel) -> None:
    """Let one head begin with what comes before a word and one with what comes after it.

    Else word order is learnt far too late: biases by distance begin near 0.1 and were still below 0.34 after 10,000
    steps, and pairs were drawn with one thing's shape twice. T5 keeps the later half of its buckets for later words.
    """
    bias = encoder.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    later = torch.arange(len(bias)) >= len(bias) // 2
    bias[:, 0] += torch.where(later, -ORDER_BIAS, ORDER_BIAS)
    bias[:, 1] += torch.where(later, ORDER_BIAS, -ORDER_BIAS)


def _clip_tokenizer() -> transformers.CLIPTokenizer:
    """Byte-pair merges learnt from the closed word list until each word is one token; others fall into letters."""
    letters = sorted(string.ascii_lowercase + string.digits + string.punctuation)
    pieces = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + _END for letter in letters)]
    spellings = [[*word[:-1], word[-1] + _END] for word in scenes.words()]
    merges = list[tuple[str, str]]()
    while pairs := collections.Counter(pair for spelling in spellings for pair in itertools.pairwise(spelling)):
        merges.append(min(pairs, key=lambda pair: (-pairs[pair], pieces.index(pair[0]), pieces.index(pair[1]))))
        pieces.append("".join(merges[-1]))
        spellings = [_merge(spelling, merges[-1]) for spelling in spellings]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS_MAX)


def _merge(spelling: list[str], pair: tuple[str, str]) -> list[str]:
    merged = list[str]()
    for piece in spelling:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged


def _t5_tokenizer() -> transformers.T5TokenizerFast:
    """One unigram piece a word; anything else is unknown."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -8.0)]
    pieces += [(f"▁{word}", -1.0) for word in scenes.words()]
    return transformers.T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=TOKENS_MAX)
