-- Control schema of rolag, version 2: what a core that has lived needs. Run as version 1 is.

-- ---- verify ----

CREATE TABLE rolag.repair (
    pipeline    text NOT NULL,
    rollup      text NOT NULL,
    id          text NOT NULL,
    extra_up_to int NOT NULL,
    state       text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'done', 'refused')),
    reason      text,
    asked_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    done_at     timestamptz,
    PRIMARY KEY (pipeline, rollup, id)
);
COMMENT ON TABLE rolag.repair IS 'Entities whose rows apply makes anew from the core''s events, between two batches; asked for by rolag verify --repair.';
COMMENT ON COLUMN rolag.repair.id IS 'The entity, as text.';
COMMENT ON COLUMN rolag.repair.extra_up_to IS 'Rows up to this version for which the core has no event are proven to be too many; later ones may be of a commit that the core does not show yet.';
COMMENT ON COLUMN rolag.repair.state IS 'waiting: for apply; done; refused: the rows are as they were, reason says why.';
