-- Videos and sounds can be priced by how long they play.

ALTER TABLE price_version
    ADD COLUMN nanos_per_media_second bigint NOT NULL DEFAULT 0 CHECK (nanos_per_media_second BETWEEN 0 AND 1000000000000);
