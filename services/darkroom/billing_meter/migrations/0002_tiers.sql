-- How a generation was made: its quality tier, and the steps that reused most of an earlier one.
ALTER TABLE usage_event
    ADD COLUMN cached_steps bigint NOT NULL DEFAULT 0 CHECK (cached_steps >= 0),
    ADD COLUMN quality      text NOT NULL DEFAULT '';  -- LOSSLESS, HIGH, DRAFT; empty: nothing was made, or it was not told
