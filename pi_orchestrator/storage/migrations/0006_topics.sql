-- The status topic that a camera has established: after a restart another client must not take its place by being first.

ALTER TABLE cameras ADD COLUMN topic TEXT;
