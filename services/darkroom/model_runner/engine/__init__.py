"""The engine: it owns the accelerator and schedules denoising steps.

In: jobs, from the runner's loop. Out: events (both in `job`). The order of reading is the order of a generation's
life: `engine` takes it in; `step_loop` decides, turn by turn, who has the device next; `admission` gives it its model
(`residency`, `host_cache`), its LoRAs (`adapters`), and by its family (`families`) its text (`prompts`, `embeddings`), its
`pictures`, which `reading` had other threads read, and so the `state`s of its rows, or those of its checkpoint
(`saving`, `checkpoint`); `slices` steps them (`hurry` says how many at most): the family predicts, as the tier has it
(`tiers`, `quantize`, `step_cache`), and `samplers` move the latents, each as its row's `plan` says; `finishing` decodes
them and has files made (`encode`). What fails for several is tried for fewer (`together`). `floor` says how it ended,
`generation` what it used, `account` whose time it was.
`measured` keeps what steps and generations cost for the next process. Nothing here knows gRPC, tenants' rights or prices.
"""

import diffusers.utils.logging
import transformers.utils.logging

# These libraries quote a user's prompt when they truncate it; and they draw progress bars when they load.
for _library in (diffusers.utils.logging, transformers.utils.logging):
    _library.set_verbosity_error()
    _library.disable_progress_bar()
