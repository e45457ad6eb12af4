-- The tables that test/templates/run loads its files into.
SET client_min_messages = warning;
CREATE EXTENSION ia3;
-- lines of t-few/few_shot/<task>/<n>_shot/0_seed.jsonl
CREATE TABLE shots (task text NOT NULL, id int GENERATED ALWAYS AS IDENTITY, doc jsonb NOT NULL);
-- the two lines of raft_prompt_construction_settings.jsonl: the fields and the instructions
CREATE TABLE settings (line int GENERATED ALWAYS AS IDENTITY, doc jsonb NOT NULL);
CREATE SCHEMA raft;
