-- What a generation was accepted to take besides its steps.

ALTER TABLE generation
    ADD COLUMN fixed_us  bigint NOT NULL DEFAULT 0,  -- the part of work_us that is not its steps
    ADD COLUMN encode_us bigint NOT NULL DEFAULT 0;  -- until its last file is made, after its work
