"""Fresh networks of pocket-image, and the folder that is shipped."""

from importlib import resources
from pathlib import Path

import pytest
import torch

from darkroom.model_runner.pocket import networks


@pytest.fixture
def fresh() -> networks.Networks:
    """Untaught networks whose latents are taken as they come; two threads at most, as the recipe uses."""
    torch.set_num_threads(min(2, torch.get_num_threads()))
    nets = networks.build(seed=0)
    nets.vae.register_to_config(shift_factor=0.0, scaling_factor=1.0)
    return nets


@pytest.fixture(scope="session")
def shipped() -> Path:
    """The folder of the committed weights."""
    return Path(str(resources.files("darkroom") / "models" / "pocket-image"))
