"""Samplers by name.

In: a sampler's name, a number of steps, and the model's own scheduler configuration. Out: a `Plan`, or BadRequest that names
the field `sampler`. Next: a family puts it into its states.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from darkroom.model_runner.engine import errors
from darkroom.model_runner.engine.plan import Plan
from darkroom.model_runner.engine.samplers import ddim, dpmpp, euler, levels, pndm, unipc

_PLANS: Mapping[str, Callable[[levels.Request], Plan]] = {
    "flow_euler": euler.flow_euler,
    "euler": euler.euler,
    "euler_ancestral": euler.euler_ancestral,
    "ddim": ddim.ddim,
    "dpmpp_2m": dpmpp.dpmpp_2m,
    "dpmpp_2m_karras": dpmpp.dpmpp_2m_karras,
    "dpmpp_2m_sde": dpmpp.dpmpp_2m_sde,
    "unipc": unipc.unipc,
    "lcm": ddim.lcm,
    "pndm": pndm.pndm,
}
NAMES = tuple(_PLANS)
"""What a request may ask for."""

_OWN: Mapping[str, str] = {
    "FlowMatchEulerDiscreteScheduler": "flow_euler",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "DDIMScheduler": "ddim",
    "UniPCMultistepScheduler": "unipc",
    "LCMScheduler": "lcm",
}


def plan(
    name: str,
    steps: int,
    *,
    config: levels.Config,
    mu: float | None = None,
    sigmas: Sequence[float] | None = None,
) -> Plan:
    """Return the table of a sampler for a model whose scheduler has `config`; BadRequest says why it does not fit.

    `mu` shifts the noise levels of models that shift them by size, and is ignored by others. `sigmas` replaces the spacing of
    a flow-matching model's levels before shifting; `dpmpp_2m` always uses its own.
    """
    if name not in _PLANS:
        raise errors.BadRequest(f"sampler: there is no {name!r}; choose one of {', '.join(NAMES)}")
    request = levels.Request(sampler=name, steps=steps, config=config, mu=mu, sigmas=sigmas)
    with np.errstate(divide="ignore", invalid="ignore"):  # logarithms of no noise; what comes of them is checked
        made = _PLANS[name](request)
    if not (np.isfinite(made.matrices).all() and np.isfinite(made.noising).all()):
        raise request.refusal(f"cannot take {steps} steps through this model's noise levels")
    return made


def default_name(config: levels.Config) -> str:
    """Return the sampler that a model was saved with, as `from_pretrained` read its scheduler's configuration.

    Schedulers that no sampler here equals (DDPM and others) become `ddim`, which reads the same table of betas, or
    `flow_euler` for a flow-matching model.
    """
    kind = config.get("_class_name", "")
    if kind == "PNDMScheduler" and config["skip_prk_steps"]:
        return "pndm"
    if kind == "DPMSolverMultistepScheduler" and str(config["algorithm_type"]).endswith("dpmsolver++"):
        if config["algorithm_type"].startswith("sde"):
            return "dpmpp_2m_sde"
        return "dpmpp_2m_karras" if config["use_karras_sigmas"] else "dpmpp_2m"
    return _OWN.get(kind, "flow_euler" if levels.is_flow(config) else "ddim")
