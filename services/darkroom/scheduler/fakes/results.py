"""What a fake runner's attempt comes to, computable by hand.

An `Assign` comes in; its Completed goes out: exactly `STEP_US` of GPU time per step and image, and one artifact per image whose
sha256 is that of "<prompt>:<seed>".
"""

import hashlib

from darkroom.api.model_runner.v1 import runner_service_pb2 as pb
from darkroom.api.scheduler.v1 import generation_pb2
from darkroom.api.types.v1 import media_pb2, money_pb2

STEP_US = 1_000


def completed(assign: pb.Assign) -> pb.Completed:
    """The success of an attempt: an artifact per image, STEP_US of GPU time per step and image."""
    image = assign.image
    count = max(image.num_images, 1)
    artifacts = [_artifact(assign, image.seed + index) for index in range(count)]
    used = usage(image.steps * count)
    used.images = count
    used.pixels = image.width * image.height * count
    stages = generation_pb2.StageTimes(prepare_us=10, denoise_us=used.gpu_time_us, decode_us=20, encode_us=5)
    return pb.Completed(
        key=assign.key, artifacts=artifacts, usage=used, stages=stages, resumed_step=assign.checkpoint.step
    )


def checkpoint(assign: pb.Assign, step: int) -> pb.Checkpoint:
    """Where an attempt can be gone on with: a name, and no bytes behind it."""
    media_id = f"med_{hashlib.sha256(f'{assign.key.generation_id}:{step}'.encode()).hexdigest()[:32]}"
    return pb.Checkpoint(key=assign.key, media_id=media_id, step=step, usage=usage(step))


def _artifact(assign: pb.Assign, seed: int) -> media_pb2.Artifact:
    image = assign.image
    digest = hashlib.sha256(f"{image.prompt}:{seed}".encode()).hexdigest()
    return media_pb2.Artifact(
        media_id=f"med_{digest[:32]}",
        media_type="image/png",
        sha256=digest,
        size_bytes=100,
        width=image.width,
        height=image.height,
        seed=seed,
    )


def usage(steps: int) -> money_pb2.Usage:
    """What so many steps use."""
    return money_pb2.Usage(gpu_time_us=steps * STEP_US, steps=steps)
