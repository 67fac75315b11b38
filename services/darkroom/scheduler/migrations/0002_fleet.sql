-- The fleet, who owns which pool, and every placement.

CREATE TABLE runner (
    runner_id     text PRIMARY KEY,
    pool          text NOT NULL,
    node          text NOT NULL,
    address       text NOT NULL,
    device        jsonb NOT NULL,
    models        text[] NOT NULL,
    draining      boolean NOT NULL DEFAULT false,
    status        jsonb,                            -- what the pool's owner last heard, for ListRunners on any replica
    registered_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    lost_at       timestamptz                       -- set once by the owner; a lost runner never comes back under its id
);
CREATE INDEX runner_by_pool ON runner (pool, seen_at);

-- One owner per pool; the epoch is raised by every take-over and never falls.
CREATE TABLE pool_lease (
    pool       text PRIMARY KEY,
    owner_id   text NOT NULL,
    epoch      bigint NOT NULL,
    expires_at timestamptz NOT NULL
);

CREATE TABLE attempt (
    generation_id text NOT NULL REFERENCES generation,
    attempt       integer NOT NULL,
    owner_epoch   bigint NOT NULL,
    pool          text NOT NULL,
    runner_id     text NOT NULL,
    solo          boolean NOT NULL DEFAULT false,
    decision      jsonb NOT NULL,                   -- PlacementDecision: candidates, terms, rejections, summary
    started_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at      timestamptz,
    end_reason    text,                             -- SUCCEEDED, FAILED, CANCELLED, RUNNER_LOST, RUNNER_FAULT, REJECTED
    PRIMARY KEY (generation_id, attempt)
);
