from darkroom import client
from darkroom.api.types.v1 import inputs_pb2


def test_an_image_is_a_prompt_and_the_models_defaults() -> None:
    request = client.image("pocket-image", "a red circle")
    assert (request.model, request.image) == ("pocket-image", inputs_pb2.ImageInput(prompt="a red circle"))


def test_videos_and_sounds_likewise() -> None:
    assert client.video("wan", "rain").video == inputs_pb2.VideoInput(prompt="rain")
    assert client.audio("noises", "rain").audio == inputs_pb2.AudioInput(prompt="rain")
    assert client.audio("noises", "rain", idempotency_key="mine").idempotency_key == "mine"
    assert client.video("wan", "rain").idempotency_key != client.video("wan", "rain").idempotency_key


def test_each_request_is_another_unless_the_caller_says_so() -> None:
    keys = {client.image("pocket-image", "a red circle").idempotency_key for _ in range(3)}
    assert len(keys) == 3
    assert client.image("pocket-image", "a red circle", idempotency_key="mine").idempotency_key == "mine"
