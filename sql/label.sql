-- ia3_label: a column of a table is filled with predictions.
SET client_min_messages = warning;

SELECT ia3_train('label_topic', $$VALUES ('I was charged twice', 'billing'), ('cannot log in', 'access'), ('wrong invoice amount', 'billing'), ('reset my password', 'access')$$,
    steps => 10, learning_rate => 0.01, seed => 1);
CREATE TABLE tickets (id int PRIMARY KEY, subject text, body text, topic text, topic_version int, topic_probability float8);
INSERT INTO tickets SELECT i, 'subject ' || i, (ARRAY['charged twice', 'no password', 'the invoice', 'log in again'])[i % 4 + 1] FROM generate_series(1, 500) i;
UPDATE tickets SET body = NULL WHERE id IN (7, 8);
UPDATE tickets SET topic = 'by hand' WHERE id = 9;
CREATE VIEW expected AS SELECT id, ia3_predict('label_topic@1', subject || ': ' || body) AS topic FROM tickets;

-- all that have no label get one, once; by hand is by hand
CALL ia3_label('tickets', 'label_topic', 'subject || '': '' || body', 'topic');
SELECT count(*) FILTER (WHERE t.topic = e.topic) AS predicted, count(*) FILTER (WHERE t.topic IS NULL) AS none, count(*) FILTER (WHERE t.topic = 'by hand') AS by_hand, count(topic_version) AS versions
  FROM tickets t JOIN expected e USING (id);
CALL ia3_label('tickets', 'label_topic', 'subject || '': '' || body', 'topic');

-- with a version, a row without a label is done, too; with a probability; in small transactions
UPDATE tickets SET topic = NULL WHERE id <> 9;
CALL ia3_label('tickets', task => 'label_topic', input => 'subject || '': '' || tickets.body', label_column => 'topic', version_column => 'topic_version', probability_column => 'topic_probability',
    condition => 'id % 2 = 1 OR id = 8', commit_rows => 7);
SELECT count(*) FILTER (WHERE t.topic = e.topic AND topic_version = 1) AS predicted, count(topic_version) AS versions, count(topic_probability) AS probabilities,
       count(DISTINCT t.xmin::text) > 2 AS transactions,
       bool_and(topic_probability = (SELECT c.probability FROM ia3_classify('label_topic@1', subject || ': ' || body) c WHERE c.rank = 1)) AS same
  FROM tickets t JOIN expected e USING (id) WHERE id <> 9;
CALL ia3_label('tickets', 'label_topic', 'subject || '': '' || body', 'topic', 'topic_version', 'topic_probability', 'id % 2 = 1 OR id = 8');
CALL ia3_label('tickets', 'label_topic', 'subject || '': '' || body', 'topic', 'topic_version', 'topic_probability');

-- a new version: labels of others are replaced if that is asked for, those by hand never
SELECT ia3_train('label_topic', $$VALUES ('I was charged twice', 'money'), ('cannot log in', 'access'), ('wrong invoice amount', 'money'), ('reset my password', 'access')$$,
    steps => 10, learning_rate => 0.01, seed => 1);
CALL ia3_label('tickets', 'label_topic', 'subject || '': '' || body', 'topic', 'topic_version', condition => 'id <= 50');
CALL ia3_label('tickets', 'label_topic', 'subject || '': '' || body', 'topic', 'topic_version', condition => 'id <= 50', relabel => true);
SELECT topic_version, count(*), count(topic) AS labels, bool_or(topic = 'money') AS money FROM tickets GROUP BY 1 ORDER BY 1;
-- a version may be named, and is then kept to
CALL ia3_label('tickets', 'label_topic@1', 'subject || '': '' || body', 'topic', 'topic_version', relabel => true);

-- rows that the task is not certain of get a version but no label
UPDATE ia3.task SET min_probability = 0.99 WHERE task = 'label_topic';
CALL ia3_label('tickets', 'label_topic', 'body', 'topic', 'topic_version', 'topic_probability', 'id < 4', relabel => true);
SELECT id, topic, topic_version, topic_probability < 0.99 AS uncertain FROM tickets WHERE id < 4 ORDER BY id;
UPDATE ia3.task SET min_probability = NULL WHERE task = 'label_topic';

-- fields; other types of columns and of the input; a table whose names need quotes
SELECT ia3_train('label_fields', $$SELECT * FROM (VALUES ('a', 'b', '1'), ('c', 'd', '2')) v(one, two, label)$$, template => ARRAY['{one}, {two}'], steps => 2, seed => 1);
CREATE TYPE level AS ENUM ('1', '2');
CREATE SCHEMA "odd one";
CREATE TABLE "odd one"."A table" (ctid_ int, one text, two int, "the level" level, number int, short varchar(1), p real, v bigint);
INSERT INTO "odd one"."A table" VALUES (1, 'a', 2), (2, 'c', NULL), (3, NULL, NULL);
CALL ia3_label('"odd one"."A table"', 'label_fields', 'to_jsonb("A table")', 'the level', 'v', 'p');
CALL ia3_label('"odd one"."A table"', 'label_fields', 'row_to_json("A table") -- as json', 'number');
CALL ia3_label('"odd one"."A table"', 'label_fields', 'to_jsonb("A table")', 'short');
SELECT ctid_, number::text = "the level"::text AND short = "the level"::text AS same, v, p BETWEEN 0.5 AND 1 AS p FROM "odd one"."A table" ORDER BY 1;
-- a label that the column cannot hold: nothing is cut off
UPDATE tickets SET topic = NULL WHERE id < 3;
ALTER TABLE tickets ADD narrow varchar(3), ADD flag bool;
\set VERBOSITY terse
CALL ia3_label('tickets', 'label_topic', 'body', 'narrow');
\set VERBOSITY default
\set VERBOSITY terse
CALL ia3_label('tickets', 'label_topic', 'body', 'flag', condition => 'id = 1');
\set VERBOSITY default
-- an integer as the input
CREATE TABLE label_numbers AS SELECT i AS n, NULL::text AS label FROM generate_series(1, 3) i;
CALL ia3_label('label_numbers', 'label_topic', 'n', 'label');
SELECT bool_and(label = ia3_predict('label_topic', n::text)) FROM label_numbers;

-- partitions, of several levels, and rows that change the partition when they get a label
CREATE TABLE parted (id int, body text, topic text) PARTITION BY LIST (topic);
CREATE TABLE parted_none PARTITION OF parted FOR VALUES IN (NULL) PARTITION BY RANGE (id);
CREATE TABLE parted_none_1 PARTITION OF parted_none FOR VALUES FROM (0) TO (100);
CREATE TABLE parted_none_2 PARTITION OF parted_none FOR VALUES FROM (100) TO (1000);
CREATE TABLE parted_rest PARTITION OF parted DEFAULT;
INSERT INTO parted SELECT i, 'charged ' || i FROM generate_series(1, 200) i;
CALL ia3_label('parted', 'label_topic', 'body', 'topic', commit_rows => 50);
SELECT tableoid::regclass, count(*) FROM parted GROUP BY 1;
CREATE TABLE parent (id int, body text, topic text);
CREATE TABLE child () INHERITS (parent);
INSERT INTO parent VALUES (1, 'charged twice');
INSERT INTO child VALUES (2, 'no password');
CALL ia3_label('parent', 'label_topic', 'body', 'topic');
SELECT tableoid::regclass, topic IS NOT NULL AS labelled FROM parent ORDER BY id;

-- triggers see the rows
CREATE TABLE log (id int, topic text);
CREATE FUNCTION log_ticket() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO log VALUES (NEW.id, NEW.topic); RETURN NEW; END$$;
CREATE TRIGGER log BEFORE UPDATE ON tickets FOR EACH ROW EXECUTE FUNCTION log_ticket();
UPDATE tickets SET topic = NULL WHERE id BETWEEN 10 AND 19;
TRUNCATE log;
CALL ia3_label('tickets', 'label_topic', 'body', 'topic');
SELECT count(*), count(DISTINCT id), count(topic) FROM log;
DROP TRIGGER log ON tickets;

-- inside a transaction block only without commits
BEGIN;
CALL ia3_label('tickets', 'label_topic', 'body', 'topic');
ROLLBACK;
UPDATE tickets SET topic = NULL WHERE id = 1;
BEGIN;
CALL ia3_label('tickets', 'label_topic', 'body', 'topic', commit_rows => 0);
ROLLBACK;
SELECT topic FROM tickets WHERE id = 1;
DO $$DECLARE n bigint; BEGIN CALL ia3_label('tickets', 'label_topic', 'body', 'topic', labelled => n); RAISE WARNING '% rows', n; END$$;
SELECT topic IS NOT NULL AS labelled FROM tickets WHERE id = 1;

-- not with a snapshot that lasts, nor with rules
SET default_transaction_isolation = 'repeatable read';
CALL ia3_label('tickets', 'label_topic', 'body', 'topic');
RESET default_transaction_isolation;
CREATE TABLE label_ruled (body text, topic text);
INSERT INTO label_ruled VALUES ('charged twice');
CREATE RULE ruled AS ON UPDATE TO label_ruled DO INSTEAD NOTHING;
CALL ia3_label('label_ruled', 'label_topic', 'body', 'topic');
CALL ia3_label(0, 'label_topic', 'body', 'topic');

-- bad arguments
CALL ia3_label(NULL, 'label_topic', 'body', 'topic');
CALL ia3_label('tickets', NULL, 'body', 'topic');
CALL ia3_label('tickets', 'label_topic', NULL, 'topic');
CALL ia3_label('tickets', 'label_topic', 'body', NULL);
CALL ia3_label('no_table', 'label_topic', 'body', 'topic');
CALL ia3_label('expected', 'label_topic', 'body', 'topic');
CALL ia3_label('pg_class_oid_index', 'label_topic', 'body', 'topic');
CALL ia3_label('tickets', 'no_task', 'body', 'topic');
CALL ia3_label('tickets', 'label_topic@9', 'body', 'topic');
\set VERBOSITY terse
CALL ia3_label('tickets', 'label_topic', 'no_column', 'topic');
\set VERBOSITY default
CALL ia3_label('tickets', 'label_topic', 'body', 'no_column');
CALL ia3_label('tickets', 'label_topic', 'body', 'ctid');
CALL ia3_label('tickets', 'label_topic', 'body', 'topic', 'no_column');
CALL ia3_label('tickets', 'label_topic', 'body', 'topic', 'body');
CALL ia3_label('tickets', 'label_topic', 'body', 'topic', 'topic_version', 'body');
CALL ia3_label('tickets', 'label_topic', 'body', 'topic', 'topic_version', 'topic_version');
CALL ia3_label('tickets', 'label_topic', 'body', 'topic', relabel => true);
CALL ia3_label('tickets', 'label_topic', 'body', 'topic', commit_rows => -1);
CALL ia3_label('tickets', 'label_topic', '', 'topic');
CALL ia3_label('tickets', 'label_topic', 'body, id', 'topic');
CALL ia3_label('tickets', 'label_topic', 'body AS topic', 'topic');
CALL ia3_label('tickets', 'label_topic', 'body ||', 'topic');
\set VERBOSITY sqlstate
CALL ia3_label('tickets', 'label_topic', '*', 'topic');
\set VERBOSITY default
CALL ia3_label('tickets', 'label_topic', 'body) FROM tickets; DROP TABLE tickets; SELECT (1', 'topic');
CALL ia3_label('tickets', 'label_topic', 'body) FROM tickets WHERE (true', 'topic');
CALL ia3_label('tickets', 'label_topic', 'body) UNION SELECT (1', 'topic');
\set VERBOSITY terse
CALL ia3_label('tickets', 'label_topic', 'count(*)', 'topic', condition => 'id = 1');
\set VERBOSITY default
\set VERBOSITY terse
CALL ia3_label('tickets', 'label_topic', 'generate_series(1, 2)::text', 'topic');
\set VERBOSITY default
CALL ia3_label('tickets', 'label_topic', 'body', 'topic', condition => 'true) OR (false');
\set VERBOSITY sqlstate
CALL ia3_label('tickets', 'label_topic', 'body', 'topic', condition => 'id');
\set VERBOSITY default
\set VERBOSITY terse
CALL ia3_label('tickets', 'label_topic', '''no fields''::jsonb', 'topic', condition => 'id = 1');
\set VERBOSITY default
CREATE TABLE generated (body text, topic text GENERATED ALWAYS AS (upper(body)) STORED, topics text[]);
CALL ia3_label('generated', 'label_topic', 'body', 'topic');
CALL ia3_label('generated', 'label_topic', 'body', 'topics');
-- the row is named
UPDATE tickets SET topic = NULL WHERE id = 2;
CREATE TABLE label_named AS SELECT id, body, NULL::text AS topic FROM tickets WHERE id = 2;
CALL ia3_label('label_named', 'label_fields', 'body', 'topic');

-- the caller's privileges and policies
CREATE ROLE regress_label;
GRANT SELECT ON ia3.task, ia3.adapter TO regress_label;
SET ROLE regress_label;
CALL ia3_label('tickets', 'label_topic', 'body', 'topic');
RESET ROLE;
SELECT ia3_grant('label_topic', 'regress_label');
GRANT SELECT, UPDATE (topic) ON tickets TO regress_label;
ALTER TABLE tickets ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON tickets TO regress_label USING (id <= 5);
UPDATE tickets SET topic = NULL WHERE id IN (3, 4, 6);
SET ROLE regress_label;
CALL ia3_label('tickets', 'label_topic', 'body', 'topic');
CALL ia3_label('tickets', 'label_topic', 'body', 'topic', 'topic_version');
RESET ROLE;
SELECT array_agg(id ORDER BY id) AS unlabelled FROM tickets WHERE topic IS NULL;

SET client_min_messages = warning;
DROP TABLE tickets, label_named, label_ruled, label_numbers, parted, parent, generated, log CASCADE;
DROP SCHEMA "odd one" CASCADE;
DROP TYPE level;
SELECT count(ia3_drop(task)) FROM ia3.task WHERE task LIKE 'label%';
DROP OWNED BY regress_label;
DROP ROLE regress_label;
