"""The engine: it owns the accelerator and schedules denoising steps.

In: jobs, from the runner's servicer. Out: events (both in `job`). The order of reading is the order of a generation's
life: `engine` takes it in, `step_loop` admits it, `residency` has its model, `adapters` its LoRAs, `families` turn it
into `state`s and step them with `samplers`, `encode` makes the file, `account` says what it cost. Nothing here knows
gRPC, tenants' rights or prices.
"""

import diffusers.utils.logging
import transformers.utils.logging

# These libraries quote a user's prompt when they truncate it; and they draw progress bars when they load.
for _library in (diffusers.utils.logging, transformers.utils.logging):
    _library.set_verbosity_error()
    _library.disable_progress_bar()
