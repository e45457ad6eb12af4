-- ia3_watch: a column that is filled with predictions whenever rows are inserted or updated.
SET client_min_messages = warning;

SELECT ia3_train('watch_topic', $$VALUES ('I was charged twice', 'billing'), ('cannot log in', 'access'), ('wrong invoice amount', 'billing'), ('reset my password', 'access')$$,
    steps => 10, learning_rate => 0.01, seed => 1);
CREATE TABLE tickets (id int PRIMARY KEY, subject text, body text, topic text, topic_version int, topic_probability float8);
CREATE VIEW expected AS SELECT id, ia3_predict('watch_topic@1', subject || ': ' || body) AS topic FROM tickets;
-- rows whose label is the prediction, is another one, or is missing
CREATE VIEW state AS
    SELECT count(*) FILTER (WHERE t.topic = e.topic) AS predicted, count(*) FILTER (WHERE t.topic <> e.topic) AS others, count(*) FILTER (WHERE t.topic IS NULL) AS none,
           count(topic_version) AS versions, count(topic_probability) AS probabilities
      FROM tickets t JOIN expected e USING (id);
-- which rows a watch has updated since the last call
CREATE TABLE updated (id int);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF pg_trigger_depth() > 1 THEN INSERT INTO updated VALUES (NEW.id); END IF; RETURN NEW; END$$;
CREATE TRIGGER note BEFORE UPDATE ON tickets FOR EACH ROW EXECUTE FUNCTION note();
CREATE FUNCTION labelled() RETURNS int[] LANGUAGE plpgsql AS $$
DECLARE ids int[];
BEGIN
    SELECT array_agg(id ORDER BY id) INTO ids FROM updated;
    DELETE FROM updated;
    RETURN ids;
END$$;

SELECT ia3_watch('tickets', task => 'watch_topic', input => 'subject || '': '' || tickets.body', label_column => 'topic', version_column => 'topic_version',
    probability_column => 'topic_probability', mode => 'direct');
SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'tickets'::regclass AND tgname ~ 'watch' ORDER BY 1;

-- INSERT: one row, many, COPY; RETURNING shows the rows as they were inserted
INSERT INTO tickets VALUES (1, 'money', 'charged twice') RETURNING id, topic;
SELECT topic, topic_version, topic_probability = (SELECT c.probability FROM ia3_classify('watch_topic', 'money: charged twice') c WHERE rank = 1) AS same FROM tickets;
INSERT INTO tickets SELECT i, 'subject ' || i, (ARRAY['charged twice', 'no password', 'the invoice', 'log in again'])[i % 4 + 1] FROM generate_series(2, 1200) i;
COPY tickets (id, subject, body) FROM stdin;
1501	account	cannot log in
1502	money	wrong amount
\.
INSERT INTO tickets SELECT WHERE false;
SELECT * FROM state;
DELETE FROM tickets WHERE id BETWEEN 20 AND 1490;
SELECT count(*) FROM unnest(labelled());
-- labels that the statement brings are kept, also the version of a row without label; a row without text gets a version
INSERT INTO tickets VALUES (1601, 'a', 'b', 'by hand', NULL), (1602, 'a', NULL, NULL, NULL), (1603, 'c', 'd', NULL, 7);
SELECT id, topic, topic_version FROM tickets WHERE id > 1600 ORDER BY 1;
DELETE FROM tickets WHERE id > 1600;

-- UPDATE: only rows whose input has changed
TRUNCATE updated;
UPDATE tickets SET body = body, topic_probability = 2 WHERE id <= 10;
SELECT labelled();
UPDATE tickets SET body = CASE WHEN id % 2 = 0 THEN 'locked out ' || id ELSE body END WHERE id <= 10;
SELECT labelled();
UPDATE tickets SET subject = NULL WHERE id = 4;
SELECT labelled(), topic, topic_version FROM tickets WHERE id = 4;
UPDATE tickets SET subject = 'again' WHERE id = 4;
SELECT labelled();
SELECT * FROM state;
-- the statement's own label is kept, and so is later one without a version; an empty one is none
UPDATE tickets SET body = 'mine', topic = 'by hand', topic_version = NULL WHERE id = 1;
UPDATE tickets SET body = 'still mine' WHERE id = 1;
UPDATE tickets SET body = 'the version''s', topic = 'with version' WHERE id = 2;
UPDATE tickets SET topic = NULL WHERE id = 3;
UPDATE tickets SET topic = NULL, body = 'new' WHERE id = 5;
SELECT t.id, t.topic, t.topic_version, t.topic = e.topic AS predicted FROM tickets t JOIN expected e USING (id) WHERE id IN (1, 2, 3, 5) ORDER BY 1;
UPDATE tickets SET body = 'not by hand' WHERE id = 2;
SELECT t.topic = e.topic AS labelled_again FROM tickets t JOIN expected e USING (id) WHERE id = 2;
UPDATE tickets SET topic = NULL, topic_version = NULL, body = body || '.' WHERE id IN (1, 3);
SELECT * FROM state;

-- keys that change: rows keep their labels, unless their input changes
INSERT INTO tickets SELECT i, 'subject ' || i, 'no password' FROM generate_series(1491, 1500) i;
TRUNCATE updated;
UPDATE tickets SET id = id + 10000 WHERE id > 1490;
SELECT labelled();
UPDATE tickets SET id = id + 100000 WHERE id > 10000;
UPDATE tickets SET id = id - 110000 WHERE id > 10000;
SELECT labelled();
UPDATE tickets SET id = id + 10000, body = CASE id WHEN 1495 THEN 'locked out' ELSE body END, topic = CASE id WHEN 1496 THEN 'set' ELSE topic END WHERE id > 1490;
SELECT labelled();
UPDATE tickets SET id = id - 10000, body = 'money back', topic = CASE id WHEN 11497 THEN 'set' ELSE topic END WHERE id > 10000;
SELECT labelled();
SELECT * FROM state;
UPDATE tickets SET body = body || '!', topic = NULL WHERE id IN (1496, 1497);
TRUNCATE updated;

-- keys that move on to the next row's
CREATE TABLE chain (id int PRIMARY KEY, body text, topic text);
INSERT INTO chain SELECT 4 - i, 'text ' || (4 - i), 'topic ' || (4 - i) FROM generate_series(1, 3) i;
SELECT ia3_watch('chain', 'watch_topic@1', 'body', 'topic');
UPDATE chain SET id = id + 1, body = CASE id WHEN 2 THEN 'changed' ELSE body END, topic = CASE id WHEN 1 THEN 'set' ELSE topic END;
SELECT id, body, CASE topic WHEN ia3_predict('watch_topic@1', body) THEN 'predicted' ELSE topic END AS topic FROM chain ORDER BY id;
DROP TABLE chain;
-- statements that insert and update
INSERT INTO tickets VALUES (10, 'money', 'charged again'), (2001, 'account', 'no password') ON CONFLICT (id) DO UPDATE SET body = excluded.body;
SELECT labelled();
INSERT INTO tickets VALUES (10, 'money', 'charged again') ON CONFLICT (id) DO NOTHING;
WITH new AS (INSERT INTO tickets VALUES (2002, 'account', 'no password') RETURNING id), old AS (UPDATE tickets SET body = 'my password' WHERE id = 11 RETURNING id) SELECT * FROM new, old;
DO $$BEGIN
    IF current_setting('server_version_num')::int >= 150000 THEN
        EXECUTE 'MERGE INTO tickets t USING (VALUES (12, ''a card''), (2003, ''another card'')) v(id, body) ON t.id = v.id
            WHEN MATCHED THEN UPDATE SET body = v.body WHEN NOT MATCHED THEN INSERT (id, subject, body) VALUES (v.id, ''merged'', v.body)';
    ELSE
        INSERT INTO tickets VALUES (12, 'merged', 'a card'), (2003, 'merged', 'another card') ON CONFLICT (id) DO UPDATE SET body = excluded.body;
    END IF;
END$$;
SELECT labelled();
SELECT * FROM state;
-- several statements in one transaction, a savepoint that is rolled back, serializable
BEGIN ISOLATION LEVEL SERIALIZABLE;
INSERT INTO tickets VALUES (2004, 'one', 'charged');
UPDATE tickets SET body = 'log in' WHERE id = 2004;
SAVEPOINT s;
INSERT INTO tickets VALUES (2005, 'two', 'charged');
ROLLBACK TO s;
INSERT INTO tickets VALUES (2006, 'three', 'charged');
COMMIT;
SELECT * FROM state;

-- the active version, unless the watch names one
SELECT ia3_train('watch_topic', $$VALUES ('I was charged twice', 'money'), ('cannot log in', 'access'), ('wrong invoice amount', 'money'), ('reset my password', 'access')$$,
    steps => 10, learning_rate => 0.01, seed => 1);
INSERT INTO tickets VALUES (2101, 'a', 'charged twice');
UPDATE tickets SET body = 'charged twice!' WHERE id = 1;
SELECT id, topic_version FROM tickets WHERE id IN (1, 2, 2101) ORDER BY 1;
SELECT ia3_unwatch('tickets', label_column => 'topic');
INSERT INTO tickets VALUES (2102, 'a', 'charged twice');
SELECT ia3_watch('tickets', 'watch_topic@1', 'subject || '': '' || body', 'topic', 'topic_version');
INSERT INTO tickets VALUES (2103, 'a', 'charged twice');
SELECT id, topic_version FROM tickets WHERE id > 2100 ORDER BY 1;
SELECT ia3_unwatch('tickets');
DELETE FROM tickets WHERE id > 20;

-- a condition, also one that becomes true
SELECT ia3_watch('tickets', 'watch_topic@1', 'subject || '': '' || body', 'topic', 'topic_version', condition => 'subject IS DISTINCT FROM ''spam''');
TRUNCATE updated;
INSERT INTO tickets VALUES (21, 'spam', 'charged'), (22, 'ham', 'charged');
SELECT labelled();
UPDATE tickets SET body = 'changed' WHERE id IN (21, 22);
SELECT labelled();
UPDATE tickets SET subject = 'ham' WHERE id = 21;
SELECT labelled();
UPDATE tickets SET subject = 'spam' WHERE id = 22;
SELECT labelled();
SELECT ia3_unwatch('tickets');
SELECT ia3_watch('tickets', 'watch_topic@1', 'body', 'topic', 'topic_version', condition => 'subject = ''open''');
UPDATE tickets SET subject = 'open' WHERE id IN (21, 22);
SELECT labelled();
SELECT ia3_unwatch('tickets');

-- several watches; one reads what another writes, and they do not call each other without an end
ALTER TABLE tickets ADD second text, ADD third text;
SELECT ia3_watch('tickets', 'watch_topic@1', 'body || COALESCE(third, '''')', 'topic');
SELECT ia3_watch('tickets', 'watch_topic@1', 'body || COALESCE(topic, '''')', 'second');
SELECT ia3_watch('tickets', 'watch_topic@2', 'body || COALESCE(second, '''')', 'third');
INSERT INTO tickets VALUES (31, 'a', 'charged twice');
SELECT labelled();
UPDATE tickets SET body = 'no password' WHERE id = 31;
SELECT labelled();
SELECT topic = ia3_predict('watch_topic@1', body || third) AS first, second = ia3_predict('watch_topic@1', body || topic) AS second, third = ia3_predict('watch_topic@2', body || second) AS third FROM tickets WHERE id = 31;
SELECT ia3_unwatch('tickets', 'second');
SELECT tgname FROM pg_trigger WHERE tgrelid = 'tickets'::regclass AND tgname ~ 'watch' ORDER BY 1;
SELECT ia3_unwatch('tickets');
-- another trigger changes the rows, before and after the watch has seen them, or others of the table
CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF pg_trigger_depth() = 1 THEN
        UPDATE tickets SET body = body || ' (changed)' WHERE id = NEW.id;
    ELSIF NEW.topic IS NOT NULL AND NEW.id < 41 THEN
        UPDATE tickets SET body = body || ' (by ' || NEW.id || ')' WHERE id = 41;
    END IF;
    RETURN NULL;
END$$;
SELECT ia3_watch('tickets', 'watch_topic@1', 'subject || '': '' || body', 'topic', 'topic_version');
CREATE TRIGGER change AFTER INSERT OR UPDATE ON tickets FOR EACH ROW EXECUTE FUNCTION change();
INSERT INTO tickets VALUES (40, 'money', 'charged'), (41, 'money', 'charged');
SELECT t.id, body, t.topic = e.topic AS predicted FROM tickets t JOIN expected e USING (id) WHERE id >= 40 ORDER BY 1;
DROP TRIGGER change ON tickets;
SELECT ia3_unwatch('tickets');

-- fields, as in ia3_label; other types of columns; names that need quotes; a column that has been dropped, one that is added
SELECT ia3_train('watch_fields', $$SELECT * FROM (VALUES ('a', 'b', '1'), ('c', 'd', '2')) v(one, two, label)$$, template => ARRAY['{one}, {two}'], steps => 2, seed => 1);
CREATE TYPE watch_level AS ENUM ('1', '2');
CREATE SCHEMA "odd one";
CREATE TABLE "odd one"."A ""table" (gone int, "a key" varchar(10), "another key" numeric, one text, two int, "the 'level'" watch_level, number int, v bigint, p real,
    UNIQUE ("a key", "another key"));
ALTER TABLE "odd one"."A ""table" ALTER "a key" SET NOT NULL, ALTER "another key" SET NOT NULL, DROP gone;
SELECT ia3_watch('"odd one"."A ""table"', 'watch_fields', 'to_jsonb("A ""table") -- as fields', 'the ''level''', 'v', 'p', $$one <> 'it''s "\' -- no more$$);
SELECT ia3_watch('"odd one"."A ""table"', 'watch_fields', 'row_to_json("A ""table")', 'number');
INSERT INTO "odd one"."A ""table" VALUES ('x', 1, 'a', 2), ('x', 2, 'c', NULL);
ALTER TABLE "odd one"."A ""table" ADD more text;
UPDATE "odd one"."A ""table" SET one = 'b', more = 'more' WHERE "another key" = 1.0;
SELECT number::text = "the 'level'"::text AND number::text = ia3_predict('watch_fields', to_jsonb(t)) AS same, v, p BETWEEN 0.5 AND 1 AS p FROM "odd one"."A ""table" t;
ALTER TABLE "odd one"."A ""table" RENAME TO renamed;
INSERT INTO "odd one".renamed VALUES ('y', 1, 'a', 2);
SELECT number IS NOT NULL AND "the 'level'" IS NOT NULL AS labelled FROM "odd one".renamed WHERE "a key" = 'y';
DROP SCHEMA "odd one" CASCADE;

-- expressions mean what they meant to ia3_watch, whatever the search_path of the statement
CREATE SCHEMA watch_one;
CREATE SCHEMA watch_two;
CREATE FUNCTION watch_one.clean(text) RETURNS text LANGUAGE sql AS $$SELECT 'one ' || $1$$;
CREATE FUNCTION watch_two.clean(text) RETURNS text LANGUAGE sql AS $$SELECT 'two ' || $1$$;
CREATE TABLE watch_one.paths (id int PRIMARY KEY, body text, topic text, other text);
SET search_path = watch_one, public;
SELECT ia3_watch('paths', 'watch_topic', 'clean(body) || (SELECT count(*) FROM paths p WHERE p.id < paths.id)', 'topic');
SET search_path = watch_two;
INSERT INTO watch_one.paths VALUES (1, 'charged'), (2, 'no password');
UPDATE watch_one.paths SET body = 'an invoice' WHERE id = 2;
RESET search_path;
SELECT bool_and(topic = ia3_predict('watch_topic', 'one ' || body || (id - 1))) FROM watch_one.paths;
DROP SCHEMA watch_one, watch_two CASCADE;

-- partitions: statements on the table that is watched, also with partitions that come later and rows that move
CREATE TABLE parted (id int, body text, topic text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (100);
SELECT ia3_watch('parted', 'watch_topic', 'body', 'topic');
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (100) TO (200) PARTITION BY RANGE (id);
CREATE TABLE parted_3 PARTITION OF parted_2 DEFAULT;
INSERT INTO parted SELECT i, 'charged ' || i FROM generate_series(90, 110) i;
UPDATE parted SET id = id + 70, body = body || ' moved' WHERE id < 95;
SELECT tableoid::regclass, count(*), bool_and(topic = ia3_predict('watch_topic', body)) FROM parted GROUP BY 1 ORDER BY 1;
-- not statements on a partition, unless that is watched, too
INSERT INTO parted_1 VALUES (1, 'charged');
SELECT ia3_watch('parted_1', 'watch_topic', 'body', 'topic');
INSERT INTO parted_1 VALUES (2, 'charged');
INSERT INTO parted VALUES (3, 'charged');
SELECT id, topic IS NOT NULL AS labelled FROM parted WHERE id < 10 ORDER BY 1;
-- rows that are lost on the way to another partition: what was before cannot be known, so the rest is labelled again
CREATE TABLE lossy (id int PRIMARY KEY, body text, topic text) PARTITION BY RANGE (id);
CREATE TABLE lossy_1 PARTITION OF lossy FOR VALUES FROM (0) TO (10);
CREATE TABLE lossy_2 PARTITION OF lossy FOR VALUES FROM (10) TO (20);
CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$;
CREATE TRIGGER lose BEFORE INSERT ON lossy_2 FOR EACH ROW WHEN (NEW.id = 11) EXECUTE FUNCTION lose();
INSERT INTO lossy VALUES (1, 'charged', 'mine'), (2, 'no password', 'mine'), (3, 'the invoice', 'mine');
SELECT ia3_watch('lossy', 'watch_topic', 'body', 'topic');
UPDATE lossy SET id = id + 10 WHERE id = 3;
UPDATE lossy SET id = id + 10 WHERE id < 3;
SELECT id, CASE topic WHEN ia3_predict('watch_topic', body) THEN 'predicted' ELSE topic END AS topic FROM lossy ORDER BY id;
DROP TABLE lossy;
-- a partition key that the label changes
CREATE TABLE by_topic (id int, body text, topic text, UNIQUE (id, topic)) PARTITION BY LIST (topic);
CREATE TABLE by_topic_none PARTITION OF by_topic FOR VALUES IN (NULL);
CREATE TABLE by_topic_rest PARTITION OF by_topic DEFAULT;
SELECT ia3_watch('by_topic', 'watch_topic', 'body', 'topic');

-- inheritance: a table that others inherit from is not watched; one that inherits is a table like others
CREATE TABLE parent (id int PRIMARY KEY, body text, topic text);
SELECT ia3_watch('parent', 'watch_topic', 'body', 'topic');
CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent);
INSERT INTO parent VALUES (1, 'charged twice');
INSERT INTO child VALUES (1, 'no password');
SELECT tableoid::regclass, topic IS NOT NULL AS labelled FROM parent ORDER BY 1;
UPDATE parent SET body = 'changed';
SELECT ia3_unwatch('parent');
SELECT ia3_watch('parent', 'watch_topic', 'body', 'topic');
SELECT ia3_watch('child', 'watch_topic', 'body', 'topic');
INSERT INTO child VALUES (2, 'no password');
SELECT id, topic IS NOT NULL AS labelled FROM child ORDER BY 1;

-- temporary and unlogged tables; keys that are none
CREATE TEMP TABLE temporary (id int PRIMARY KEY, body text, topic text);
SELECT ia3_watch('temporary', 'watch_topic', 'body', 'topic');
INSERT INTO temporary VALUES (1, 'charged');
SELECT topic IS NOT NULL AS labelled FROM temporary;
CREATE UNLOGGED TABLE keyless (id int, other int NOT NULL, body text, topic text, UNIQUE (id));
CREATE UNIQUE INDEX ON keyless (other) WHERE other > 0;
CREATE UNIQUE INDEX ON keyless ((other + 1));
ALTER TABLE keyless ADD CONSTRAINT later UNIQUE (other) DEFERRABLE;
SELECT ia3_watch('keyless', 'watch_topic', 'body', 'topic');
CREATE UNIQUE INDEX keyless_key ON keyless (other) INCLUDE (body);
SELECT ia3_watch('keyless', 'watch_topic', 'body', 'topic');
INSERT INTO keyless VALUES (NULL, 1, 'charged'), (NULL, 2, 'charged');
SELECT bool_and(topic IS NOT NULL) AS labelled FROM keyless;
DROP INDEX keyless_key;
INSERT INTO keyless VALUES (NULL, 3, 'charged');
DROP TABLE keyless;

-- deferred constraints
CREATE TABLE owners (id int PRIMARY KEY);
CREATE TABLE owned (id int PRIMARY KEY, owner int REFERENCES owners DEFERRABLE INITIALLY DEFERRED, body text, topic text);
SELECT ia3_watch('owned', 'watch_topic', 'body', 'topic');
BEGIN;
INSERT INTO owned VALUES (1, 1, 'charged');
INSERT INTO owners VALUES (1);
COMMIT;
SELECT topic IS NOT NULL AS labelled FROM owned;
INSERT INTO owned VALUES (2, 2, 'charged');

-- what the watch needs disappears: errors say what to do
CREATE TABLE changing (id int PRIMARY KEY, body text, note text, topic text, version int, probability real);
SELECT ia3_watch('changing', 'watch_topic', 'body', 'topic', 'version', 'probability');
INSERT INTO changing VALUES (1, 'charged');
ALTER TABLE changing ALTER body TYPE jsonb USING jsonb_build_object('text', body), ALTER id TYPE bigint, ALTER topic TYPE varchar(3) USING NULL;
\set VERBOSITY terse
INSERT INTO changing VALUES (2, '"charged"');
INSERT INTO changing VALUES (2, '{"text": "charged"}');
\set VERBOSITY default
ALTER TABLE changing ALTER topic TYPE text;
INSERT INTO changing VALUES (2, '{"text": "charged"}');
SELECT topic = ia3_predict('watch_topic', '{"text": "charged"}'::jsonb) AS labelled FROM changing WHERE id = 2;
ALTER TABLE changing RENAME body TO text;
INSERT INTO changing VALUES (3, '{"text": "charged"}');
ALTER TABLE changing RENAME text TO body;
\set SHOW_CONTEXT never
ALTER TABLE changing DROP topic;
INSERT INTO changing VALUES (3, '{"text": "charged"}');
UPDATE changing SET note = 'changed';
ALTER TABLE changing ADD topic bytea;
INSERT INTO changing VALUES (3, '{"text": "charged"}');
ALTER TABLE changing DROP topic, ADD topic text, DROP version;
INSERT INTO changing VALUES (3, '{"text": "charged"}');
ALTER TABLE changing ADD version int, ALTER probability TYPE text;
INSERT INTO changing VALUES (3, '{"text": "charged"}');
ALTER TABLE changing DROP CONSTRAINT changing_pkey;
INSERT INTO changing VALUES (3, '{"text": "charged"}');
\set SHOW_CONTEXT errors
SELECT ia3_unwatch('changing');
INSERT INTO changing VALUES (3, '{"text": "charged"}');
-- the task, too; a statement without rows to be labelled does not need it
SELECT ia3_copy('watch_topic', 'watch_copy');
ALTER TABLE changing ADD PRIMARY KEY (id);
SELECT ia3_watch('changing', 'watch_copy', 'body', 'note');
SELECT ia3_rename('watch_copy', 'watch_other');
INSERT INTO changing VALUES (4, '{"text": "charged"}');
SELECT ia3_rename('watch_other', 'watch_copy');
INSERT INTO changing VALUES (4, '{"text": "charged"}');
SELECT ia3_drop('watch_copy');
UPDATE changing SET body = '{"text": "changed"}';
UPDATE changing SET probability = NULL;
SELECT ia3_unwatch('changing');
-- an input that cannot be predicted
SELECT ia3_watch('changing', 'watch_fields', 'body', 'note');
INSERT INTO changing VALUES (5, '{"text": "charged"}');
-- rules
CREATE RULE ruled AS ON UPDATE TO changing DO INSTEAD NOTHING;
INSERT INTO changing VALUES (5, '{"one": 1, "two": 2}');
DROP TABLE changing;

-- names of triggers are unique, however long those of the columns are
CREATE TABLE long_names (id int PRIMARY KEY, body text);
SELECT format('ALTER TABLE long_names ADD %I text', repeat('long ', 12) || n) AS add FROM generate_series(1, 3) n \gexec
SELECT count(ia3_watch('long_names', 'watch_topic', 'body', attname)) FROM pg_attribute WHERE attrelid = 'long_names'::regclass AND attname ~ 'long';
INSERT INTO long_names VALUES (1, 'charged');
SELECT count(*) FILTER (WHERE value = ia3_predict('watch_topic', 'charged')) AS labelled FROM long_names t, jsonb_each_text(to_jsonb(t) - 'id' - 'body');
SELECT count(*), max(length(tgname)) FROM pg_trigger WHERE tgrelid = 'long_names'::regclass;
SELECT ia3_unwatch('long_names', repeat('long ', 12) || 2);
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'long_names'::regclass;
DROP TABLE long_names;
-- ia3_label beside a watch
CREATE TABLE both_ways (id int PRIMARY KEY, body text, topic text, version int);
INSERT INTO both_ways SELECT i, 'charged ' || i FROM generate_series(1, 5) i;
SELECT ia3_watch('both_ways', 'watch_topic', 'body', 'topic', 'version');
CALL ia3_label('both_ways', 'watch_topic@1', 'body', 'topic', 'version');
INSERT INTO both_ways VALUES (6, 'charged');
SELECT id, version FROM both_ways ORDER BY id;
DROP TABLE both_ways;
-- things that are no tables with rows of their own
CREATE FOREIGN DATA WRAPPER watch_wrapper;
CREATE SERVER watch_server FOREIGN DATA WRAPPER watch_wrapper;
CREATE FOREIGN TABLE watch_foreign (id int NOT NULL, body text, topic text) SERVER watch_server;
SELECT ia3_watch('watch_foreign', 'watch_topic', 'body', 'topic');
DROP FOREIGN DATA WRAPPER watch_wrapper CASCADE;
CREATE MATERIALIZED VIEW watch_view AS SELECT 1 AS id, 'a' AS body, 'b' AS topic;
SELECT ia3_watch('watch_view', 'watch_topic', 'body', 'topic');
DROP MATERIALIZED VIEW watch_view;
CREATE TABLE generated (id int PRIMARY KEY, body text, topic text GENERATED ALWAYS AS (upper(body)) STORED, topics text[]);
SELECT ia3_watch('generated', 'watch_topic', 'body', 'topic');
SELECT ia3_watch('generated', 'watch_topic', 'body', 'topics');
-- what a generated column needs follows the text, and is written before the watch sees it
ALTER TABLE generated ADD label text;
SELECT ia3_watch('generated', 'watch_topic', 'topic', 'label');
INSERT INTO generated (id, body) VALUES (1, 'charged');
UPDATE generated SET body = 'no password';
SELECT label = ia3_predict('watch_topic', topic) AS labelled FROM generated;
DROP TABLE generated;

-- bad arguments
SELECT ia3_watch(NULL, 'watch_topic', 'body', 'topic');
SELECT ia3_watch('tickets', NULL, 'body', 'topic');
SELECT ia3_watch('tickets', 'watch_topic', NULL, 'topic');
SELECT ia3_watch('tickets', 'watch_topic', 'body', NULL);
SELECT ia3_watch('tickets', 'watch_topic', 'body', 'topic', mode => NULL);
SELECT ia3_watch('tickets', 'watch_topic', 'body', 'topic', mode => 'Direct');
SELECT ia3_watch(0, 'watch_topic', 'body', 'topic');
SELECT ia3_watch('expected', 'watch_topic', 'body', 'topic');
SELECT ia3_watch('tickets_pkey', 'watch_topic', 'body', 'topic');
SELECT ia3_watch('pg_class', 'watch_topic', 'relname', 'relacl');
SELECT ia3_watch('pg_shdescription', 'watch_topic', 'description', 'description');
SELECT ia3_watch('tickets', 'no_task', 'body', 'topic');
SELECT ia3_watch('tickets', 'watch_topic@9', 'body', 'topic');
SELECT ia3_watch('tickets', 'watch topic@', 'body', 'topic');
SELECT ia3_watch('tickets', 'watch_topic', 'no_column', 'topic');
SELECT ia3_watch('tickets', 'watch_topic', 'body', 'no_column');
SELECT ia3_watch('tickets', 'watch_topic', 'body', 'ctid');
SELECT ia3_watch('tickets', 'watch_topic', 'body', 'topic', 'no_column');
SELECT ia3_watch('tickets', 'watch_topic', 'body', 'topic', 'body');
SELECT ia3_watch('tickets', 'watch_topic', 'body', 'topic', probability_column => 'body');
SELECT ia3_watch('tickets', 'watch_topic', 'body', 'topic', 'topic_version', 'topic_version');
SELECT ia3_watch('tickets', 'watch_topic', '', 'topic');
SELECT ia3_watch('tickets', 'watch_topic', 'body, id', 'topic');
SELECT ia3_watch('tickets', 'watch_topic', 'body ||', 'topic');
SELECT ia3_watch('tickets', 'watch_topic', 'body) FROM tickets; DROP TABLE tickets; SELECT (1', 'topic');
SELECT ia3_watch('tickets', 'watch_topic', '*', 'topic');
SELECT ia3_watch('tickets', 'watch_topic', 'count(*)', 'topic');
SELECT ia3_watch('tickets', 'watch_topic', 'generate_series(1, 2)::text', 'topic');
SELECT ia3_watch('tickets', 'watch_topic', 'body', 'topic', condition => 'id');
SELECT ia3_watch('tickets', 'watch_topic', 'body', 'topic', condition => 'true) OR (false');
SELECT ia3_watch('tickets', 'watch_topic', 'body', 'topic', condition => 'no_column > 0');
\set VERBOSITY terse
SELECT ia3_watch('tickets', 'watch_topic', 'tableoid::text', 'topic');
\set VERBOSITY default
SELECT ia3_watch('tickets', 'watch_topic', 'body', 'topic');
SELECT ia3_watch('tickets', 'watch_topic@1', 'subject', 'topic');
SELECT ia3_unwatch(NULL);
SELECT ia3_unwatch('tickets', 'subject');
SELECT ia3_unwatch('tickets', 'topic');
SELECT ia3_unwatch('tickets');
SELECT ia3_unwatch('expected');
-- triggers that ia3_watch has not made
CREATE TRIGGER own AFTER INSERT ON tickets REFERENCING NEW TABLE AS ia3_new FOR EACH STATEMENT EXECUTE FUNCTION ia3.watch_changes('task=watch_topic', 'input=ia3_row.body', 'search_path=');
INSERT INTO tickets VALUES (101, 'a', 'b');
DROP TRIGGER own ON tickets;
CREATE TRIGGER own AFTER INSERT ON tickets REFERENCING NEW TABLE AS ia3_new FOR EACH STATEMENT EXECUTE FUNCTION ia3.watch_changes('task=watch_topic', 'input=ia3_row.body', 'search_path=', 'label_column=topic', 'more=1');
INSERT INTO tickets VALUES (101, 'a', 'b');
DROP TRIGGER own ON tickets;
CREATE TRIGGER own AFTER INSERT ON tickets REFERENCING NEW TABLE AS other FOR EACH STATEMENT EXECUTE FUNCTION ia3.watch_changes('task=watch_topic', 'input=ia3_row.body', 'search_path=', 'label_column=topic');
INSERT INTO tickets VALUES (101, 'a', 'b');
DROP TRIGGER own ON tickets;
CREATE TRIGGER own BEFORE UPDATE ON tickets FOR EACH ROW EXECUTE FUNCTION ia3.watch_changes('task=watch_topic', 'input=ia3_row.body', 'search_path=', 'label_column=topic');
UPDATE tickets SET body = 'b';
DROP TRIGGER own ON tickets;

-- Roles. Only the owner installs a watch, and it works with the owner's privileges: whoever inserts needs nothing else.
CREATE ROLE regress_watch_owner;
CREATE ROLE regress_watch_writer;
CREATE TABLE private (id int PRIMARY KEY, body text, topic text, seen_by text DEFAULT NULL);
ALTER TABLE private OWNER TO regress_watch_owner;
GRANT ALL ON private TO regress_watch_writer;
SET ROLE regress_watch_writer;
SELECT ia3_watch('private', 'watch_topic', 'body', 'topic');
CREATE TRIGGER mine AFTER INSERT ON private REFERENCING NEW TABLE AS ia3_new FOR EACH STATEMENT EXECUTE FUNCTION ia3.watch_changes('task=watch_topic', 'input=ia3_row.body', 'search_path=', 'label_column=topic');
SET ROLE regress_watch_owner;
-- the owner has to be a reader of the task, even if somebody else installs the watch
SELECT ia3_watch('private', 'watch_topic', 'body', 'topic');
RESET ROLE;
SELECT ia3_watch('private', 'watch_topic', 'body', 'topic');
SELECT ia3_grant('watch_topic', 'regress_watch_owner');
SET ROLE regress_watch_owner;
SELECT ia3_watch('private', 'watch_topic', 'body || current_user', 'topic');
RESET ROLE;
REVOKE ALL ON private FROM regress_watch_writer;
GRANT INSERT ON private TO regress_watch_writer;
SET ROLE regress_watch_writer;
INSERT INTO private VALUES (1, 'charged twice');
SELECT topic FROM private;
SELECT ia3_unwatch('private');
SELECT ia3_predict('watch_topic', 'charged twice');
RESET ROLE;
SELECT topic = ia3_predict('watch_topic', 'charged twiceregress_watch_owner') AS labelled FROM private;
-- row security hides nothing from the watch
ALTER TABLE private ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY write_only ON private FOR INSERT TO regress_watch_writer WITH CHECK (id < 10);
SET ROLE regress_watch_writer;
INSERT INTO private VALUES (2, 'no password');
INSERT INTO private VALUES (11, 'no password');
RESET ROLE;
SELECT count(topic) FROM private;
-- what the owner's functions do, they do as the owner and not as the superuser who inserts, and not to the session
CREATE FUNCTION steal() RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    RETURN rolpassword FROM pg_authid LIMIT 1;
END$$;
CREATE FUNCTION become() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    SET ROLE postgres;
    RETURN 'a';
END$$;
CREATE FUNCTION set_path() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('search_path', 'evil', false);
    RETURN 'a';
END$$;
ALTER TABLE private NO FORCE ROW LEVEL SECURITY;
ALTER FUNCTION steal() OWNER TO regress_watch_owner;
ALTER FUNCTION become() OWNER TO regress_watch_owner;
ALTER FUNCTION set_path() OWNER TO regress_watch_owner;
SET ROLE regress_watch_owner;
SELECT ia3_unwatch('private');
SELECT ia3_watch('private', 'watch_topic', 'body || steal()', 'topic');
RESET ROLE;
\set VERBOSITY terse
INSERT INTO private VALUES (3, 'as superuser');
SELECT ia3_unwatch('private');
SELECT ia3_watch('private', 'watch_topic', 'body || become()', 'topic');
INSERT INTO private VALUES (3, 'as superuser');
\set VERBOSITY default
SELECT ia3_unwatch('private');
SELECT ia3_watch('private', 'watch_topic', 'body || set_path()', 'topic');
INSERT INTO private VALUES (3, 'as superuser');
SELECT topic IS NOT NULL AS labelled, current_setting('search_path') FROM private WHERE id = 3;
SELECT current_user = session_user AS myself;
CREATE FUNCTION make_table() RETURNS text LANGUAGE plpgsql AS $$BEGIN CREATE TEMP TABLE trap (); RETURN 'a'; END$$;
SELECT ia3_unwatch('private');
SELECT ia3_watch('private', 'watch_topic', 'body || make_table()', 'topic');
\set VERBOSITY terse
INSERT INTO private VALUES (6, 'as superuser');
\set VERBOSITY default
SELECT ia3_unwatch('private');
-- other triggers that see the label run as the owner, too, with the search_path of ia3_watch: the writer cannot lend them his functions
CREATE FUNCTION public.who() RETURNS text LANGUAGE sql AS $$SELECT 'good'$$;
CREATE FUNCTION seen() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.seen_by = current_user || ' ' || who() || ' ' || current_setting('search_path'); RETURN NEW; END$$;
CREATE TRIGGER seen BEFORE UPDATE ON private FOR EACH ROW EXECUTE FUNCTION seen();
SELECT ia3_watch('private', 'watch_topic', 'body', 'topic');
CREATE SCHEMA AUTHORIZATION regress_watch_writer;
SET ROLE regress_watch_writer;
CREATE FUNCTION regress_watch_writer.who() RETURNS text LANGUAGE sql AS $$SELECT 'evil'$$;
SET search_path = regress_watch_writer, public;
INSERT INTO private VALUES (4, 'no password');
SHOW search_path;
RESET search_path;
RESET ROLE;
SELECT seen_by FROM private WHERE id = 4;
SELECT ia3_unwatch('private');
SET search_path = '';
SELECT public.ia3_watch('public.private', 'watch_topic', 'body', 'topic');
ALTER TABLE public.private DISABLE TRIGGER seen;
INSERT INTO public.private VALUES (5, 'no password');
RESET search_path;
SELECT topic IS NOT NULL AS labelled FROM private WHERE id = 5;

SET client_min_messages = warning;
DROP TABLE tickets, updated, parted, by_topic, parent, temporary, owners, owned, private CASCADE;
DROP SCHEMA regress_watch_writer CASCADE;
DROP FUNCTION note, labelled, change, lose, steal, become, set_path, make_table, seen, who;
DROP TYPE watch_level;
SELECT count(ia3_drop(task)) FROM ia3.task WHERE task LIKE 'watch%';
DROP ROLE regress_watch_owner, regress_watch_writer;
