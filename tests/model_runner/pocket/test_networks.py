"""The networks are the real classes, small, and made the same from the same seed."""

import pathlib

import diffusers
import pytest
import torch
import transformers

from darkroom.model_runner.pocket import networks, scenes


def test_the_same_seed_makes_the_same_networks(fresh: networks.Networks) -> None:
    again, other = networks.build(seed=0), networks.build(seed=1)
    assert torch.equal(fresh.transformer.x_embedder.weight, again.transformer.x_embedder.weight)
    assert not torch.equal(fresh.transformer.x_embedder.weight, other.transformer.x_embedder.weight)


def test_everything_fits_into_eight_megabytes(fresh: networks.Networks) -> None:
    taught = (fresh.transformer, fresh.vae, fresh.text_encoder, fresh.text_encoder_2)
    assert sum(weight.numel() for network in taught for weight in network.parameters()) * 2 <= 8_000_000


def test_every_word_of_the_world_is_one_token_for_both_encoders(fresh: networks.Networks) -> None:
    for word in scenes.words():
        assert len(fresh.tokenizer(word).input_ids) == 3, "start, word, end"
        assert len(fresh.tokenizer_2(word).input_ids) == 2, "word, end"
        assert fresh.tokenizer_2.unk_token_id not in fresh.tokenizer_2(word).input_ids


def test_other_words_are_unknown_to_t5_and_letters_to_clip(fresh: networks.Networks) -> None:
    assert fresh.tokenizer_2.unk_token_id in fresh.tokenizer_2("zebra").input_ids
    assert fresh.tokenizer.unk_token_id not in fresh.tokenizer("zebra").input_ids[1:-1]


def test_t5_begins_with_one_head_for_what_comes_before_and_one_for_what_comes_after(fresh: networks.Networks) -> None:
    attention = fresh.text_encoder_2.encoder.block[0].layer[0].SelfAttention
    bias = attention.compute_bias(9, 9)[0].detach()
    before = torch.ones(9, 9, dtype=torch.bool).tril(-1)
    assert bias[0][before].min() > bias[0][before.T].max() + 2 * networks.ORDER_BIAS - 1
    assert bias[1][before.T].min() > bias[1][before].max() + 2 * networks.ORDER_BIAS - 1


def test_the_longest_prompt_fits(fresh: networks.Networks) -> None:
    longest = "a small red circle left of a large blue square on a white background"
    assert len(fresh.tokenizer(longest).input_ids) <= networks.TOKENS_MAX
    assert len(fresh.tokenizer_2(longest).input_ids) <= networks.TOKENS_MAX


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_pipeline_makes_a_picture_of_the_native_size(fresh: networks.Networks) -> None:
    pipeline = networks.pipeline(fresh)
    assert isinstance(pipeline, diffusers.FluxPipeline)
    pipeline.set_progress_bar_config(disable=True)
    side = scenes.SIZE_PX
    made = pipeline(
        "a red circle", num_inference_steps=1, width=side, height=side, max_sequence_length=networks.TOKENS_MAX
    )
    assert made.images[0].size == (side, side)
    assert pipeline.vae_scale_factor * networks.LATENT_SIZE == side


def test_words_have_the_same_numbers_every_time(fresh: networks.Networks) -> None:
    again = networks.build(seed=1)
    assert again.tokenizer.get_vocab() == fresh.tokenizer.get_vocab()
    assert again.tokenizer_2.get_vocab() == fresh.tokenizer_2.get_vocab()


def test_the_shipped_tokenizer_is_the_one_that_the_recipe_makes(
    fresh: networks.Networks, shipped: pathlib.Path
) -> None:
    tokenizer = transformers.CLIPTokenizer.from_pretrained(shipped / "tokenizer")
    assert tokenizer.get_vocab() == fresh.tokenizer.get_vocab()
