"""The runner's background work: `attempt` runs attempts through `bridge`, the engine's side of the event loop; `announce` tells the scheduler."""
