"""The runner's background work: `attempt` runs one attempt, `announce` tells the scheduler that and how the runner lives."""
