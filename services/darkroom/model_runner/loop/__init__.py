"""The runner's background work.

`announce` tells the scheduler that the runner is there. `attempt` is an assignment's life: `sources` fetches its pictures, `bridge` hands it
to the engine's thread and awaits its end, `keep` stores its checkpoints meanwhile.
"""
