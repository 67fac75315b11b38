"""The engine: it owns the accelerator and schedules denoising steps.

In: jobs, from the runner's servicer. Out: events (both in `job`). The order of reading is the order of a generation's
life: `engine` takes it in; `step_loop` decides, turn by turn, who has the device next; `admission` gives it its model
(`residency`), its LoRAs (`adapters`), its text (`embeddings`) and so the `state`s of its rows, or those of its checkpoint
(`saving`, `checkpoint`); `slices` steps them by its family (`families`, `samplers`, `step_cache`); `finishing` decodes
them and has files made (`encode`); `floor` says how it ended, and `account` what it cost. Nothing here knows gRPC, tenants'
rights or prices.
"""

import diffusers.utils.logging
import transformers.utils.logging

# These libraries quote a user's prompt when they truncate it; and they draw progress bars when they load.
for _library in (diffusers.utils.logging, transformers.utils.logging):
    _library.set_verbosity_error()
    _library.disable_progress_bar()
