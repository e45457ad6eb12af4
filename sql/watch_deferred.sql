-- ia3_watch with mode 'deferred': rows are queued, and a background worker labels them.
DELETE FROM ia3.given_version g WHERE NOT EXISTS (SELECT FROM ia3.adapter a WHERE a.task = g.task); -- other tests use the same names
SET client_min_messages = warning;

SELECT ia3_train('later', $$VALUES ('I was charged twice', 'billing'), ('cannot log in', 'access'), ('wrong invoice amount', 'billing'), ('reset my password', 'access')$$,
    steps => 10, learning_rate => 0.01, seed => 1);
CREATE ROLE regress_ia3_keeper;
CREATE ROLE regress_ia3_writer;
SELECT ia3_grant('later', 'regress_ia3_keeper');
CREATE SCHEMA kept AUTHORIZATION regress_ia3_keeper;
GRANT USAGE ON SCHEMA kept TO PUBLIC;
CREATE TABLE kept.tickets (id int PRIMARY KEY, subject text, body text, topic text, topic_version int, topic_probability float8);
CREATE VIEW expected AS SELECT id, ia3_predict('later@1', subject || ': ' || body) AS topic FROM kept.tickets;
CREATE VIEW state AS
    SELECT count(*) FILTER (WHERE t.topic = e.topic) AS predicted, count(*) FILTER (WHERE t.topic <> e.topic) AS others, count(*) FILTER (WHERE t.topic IS NULL) AS none,
           count(topic_version) AS versions, count(topic_probability) AS probabilities
      FROM kept.tickets t JOIN expected e USING (id);
-- waits until a query returns true
CREATE FUNCTION wait_for(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    done bool;
    finish timestamptz := clock_timestamp() + interval '2 minutes';
BEGIN
    LOOP
        EXECUTE query INTO done;
        EXIT WHEN done;
        IF clock_timestamp() > finish THEN
            RETURN 'never: ' || query || (SELECT coalesce(string_agg(q::text, ' '), '') FROM ia3.watch_queue q);
        END IF;
        PERFORM pg_sleep(0.02);
    END LOOP;
    RETURN 'done';
END$$;
-- the same for a queue without waiting rows
CREATE FUNCTION drained() RETURNS text LANGUAGE sql AS $$SELECT wait_for('SELECT NOT EXISTS (SELECT FROM ia3.watch_entry WHERE due < ''infinity'')')$$;

-- bad input
SELECT ia3_watch('kept.tickets', 'later', 'body', 'topic', mode => 'later');
SELECT ia3_watch('kept.tickets', 'later', 'body', 'topic', mode => 'deferred');
CREATE TEMP TABLE temporary (id int PRIMARY KEY, body text, topic text);
ALTER TABLE temporary OWNER TO regress_ia3_keeper;
SELECT ia3_watch('temporary', 'later', 'body', 'topic', mode => 'deferred');
DROP TABLE temporary;
SELECT ia3_watch_retry(NULL);
SELECT ia3_watch_retry('ia3.watch_queue');
SELECT ia3_watch_retry('kept.tickets');
SET ROLE regress_ia3_writer;
SELECT ia3_watch_retry('kept.tickets');
SELECT count(*) FROM ia3.watch_entry;
SELECT * FROM ia3.watch_queue;
RESET ROLE;
SELECT set_config('ia3.watch_queue_limit', '-1', false);
SET ROLE regress_ia3_writer;
SET ia3.watch_queue_limit = 1;
RESET ROLE;

-- the owner installs it, or a superuser for him; both triggers say that it is deferred
ALTER TABLE kept.tickets OWNER TO regress_ia3_keeper;
GRANT SELECT, INSERT, UPDATE, DELETE ON kept.tickets TO regress_ia3_writer;
SET ROLE regress_ia3_keeper;
SELECT ia3_watch('kept.tickets', task => 'later', input => 'subject || '': '' || body', label_column => 'topic', version_column => 'topic_version',
    probability_column => 'topic_probability', condition => 'subject IS NOT NULL', mode => 'deferred');
SELECT ia3_watch('kept.tickets', 'later', 'body', 'topic', mode => 'direct');
RESET ROLE;
SELECT count(*), bool_and(pg_get_triggerdef(oid) LIKE '%''mode=deferred''%') FROM pg_trigger WHERE tgrelid = 'kept.tickets'::regclass AND tgname ~ 'watch';

-- rows are in the queue when the statement ends, labelled when the transaction has; owners see their own queues
SET ROLE regress_ia3_writer;
BEGIN;
INSERT INTO kept.tickets VALUES (1, 'money', 'charged twice', NULL), (2, 'login', 'no password', NULL), (3, NULL, 'no subject', NULL), (4, 'mine', 'by hand', 'mine');
SELECT * FROM ia3.watch_queue;
SET ROLE regress_ia3_keeper;
SELECT relation, label_column, waiting, set_aside, oldest = now() AS oldest, attempts, next_attempt, last_error FROM ia3.watch_queue;
SELECT * FROM ia3.watch_failed_rows;
SELECT id, topic FROM kept.tickets ORDER BY id;
COMMIT;
RESET ROLE;
SELECT drained();
SELECT * FROM state;
SELECT id, topic IS NOT NULL AS labelled, topic_version FROM kept.tickets ORDER BY id;
SELECT * FROM ia3.watch_queue;
-- many rows; COPY; a transaction that is rolled back
INSERT INTO kept.tickets SELECT i, 'subject ' || i, (ARRAY['charged twice', 'no password', 'the invoice', 'log in again'])[i % 4 + 1] FROM generate_series(5, 1200) i;
COPY kept.tickets (id, subject, body) FROM stdin;
2601	account	cannot log in
2602	money	wrong amount
\.
BEGIN;
INSERT INTO kept.tickets VALUES (2701, 'never', 'there');
ROLLBACK;
SELECT drained();
SELECT * FROM state;
DELETE FROM kept.tickets WHERE id BETWEEN 20 AND 2599;

-- which rows: those whose input has changed, as in direct mode; the old label stays until there is a new one
BEGIN;
UPDATE kept.tickets SET body = body, topic_probability = 2 WHERE id < 10;
SELECT count(*) FROM ia3.watch_entry;
UPDATE kept.tickets SET body = 'locked out' WHERE id IN (5, 6);
UPDATE kept.tickets SET subject = 'now' WHERE id = 3;
UPDATE kept.tickets SET body = 'still mine' WHERE id = 4;
UPDATE kept.tickets SET body = 'hand', topic = 'set', topic_version = NULL WHERE id = 7;
SELECT key, label IS NOT NULL AS has_label FROM ia3.watch_entry ORDER BY entry;
COMMIT;
SELECT drained();
SELECT t.id, CASE WHEN t.topic = e.topic THEN 'predicted' ELSE t.topic END AS topic, topic_version FROM kept.tickets t JOIN expected e USING (id) WHERE id < 8 ORDER BY id;
-- what happens while rows wait: deleted, changed twice, labelled by hand, moved to other keys, and to the keys of each other
BEGIN;
INSERT INTO kept.tickets VALUES (101, 'a', 'charged'), (102, 'b', 'charged'), (103, 'c', 'charged'), (104, 'd', 'charged'), (105, 'e', 'no password'), (106, 'f', 'charged');
DELETE FROM kept.tickets WHERE id = 101;
UPDATE kept.tickets SET body = 'log in' WHERE id = 102;
UPDATE kept.tickets SET body = 'log in again' WHERE id = 102;
UPDATE kept.tickets SET topic = 'by hand' WHERE id = 103;
UPDATE kept.tickets SET id = id + 1000 WHERE id = 104;
UPDATE kept.tickets SET id = CASE id WHEN 105 THEN 2105 ELSE 105 END WHERE id IN (105, 106);
UPDATE kept.tickets SET body = 'anything', topic = 'by hand' WHERE id = 8;
UPDATE kept.tickets SET body = 'anything else' WHERE id = 9;
UPDATE kept.tickets SET topic = 'by hand' WHERE id = 9;
UPDATE kept.tickets SET body = 'once more' WHERE id = 10;
UPDATE kept.tickets SET topic = NULL WHERE id = 10;
COMMIT;
SELECT drained();
SELECT t.id, CASE WHEN t.topic = e.topic THEN 'predicted' ELSE t.topic END AS topic FROM kept.tickets t JOIN expected e USING (id) WHERE id > 100 AND id < 2500 OR id IN (8, 9, 10) ORDER BY id;
-- ON CONFLICT, and a subtransaction that is rolled back
BEGIN;
INSERT INTO kept.tickets VALUES (10, 'money', 'charged again'), (201, 'account', 'no password') ON CONFLICT (id) DO UPDATE SET body = excluded.body;
SAVEPOINT s;
INSERT INTO kept.tickets VALUES (202, 'two', 'charged');
ROLLBACK TO s;
INSERT INTO kept.tickets VALUES (203, 'three', 'charged');
COMMIT;
SELECT drained();
SELECT t.id, t.topic = e.topic AS predicted FROM kept.tickets t JOIN expected e USING (id) WHERE id > 200 AND id < 300 OR id = 10 ORDER BY id;

-- back-pressure: beyond the limit a statement fails
BEGIN;
SET LOCAL ia3.watch_queue_limit = 10;
INSERT INTO kept.tickets SELECT i, 'many', 'rows' FROM generate_series(301, 311) i;
ROLLBACK;
BEGIN;
SET LOCAL ia3.watch_queue_limit = 10;
INSERT INTO kept.tickets SELECT i, 'many', 'rows' FROM generate_series(301, 310) i;
UPDATE kept.tickets SET body = 'one more' WHERE id = 301;
ROLLBACK;
BEGIN;
SET LOCAL ia3.watch_queue_limit = 0;
INSERT INTO kept.tickets SELECT i, 'many', 'rows' FROM generate_series(301, 311) i;
ROLLBACK;
DELETE FROM kept.tickets;
-- what was rolled back does not count
SELECT drained();
DO $$BEGIN
    FOR i IN 1 .. 3 LOOP
        BEGIN
            INSERT INTO kept.tickets SELECT j, 'many', 'rows' FROM generate_series(301, 306) j;
            RAISE EXCEPTION 'rolled back';
        EXCEPTION WHEN raise_exception THEN NULL;
        END;
    END LOOP;
    SET LOCAL ia3.watch_queue_limit = 10;
    INSERT INTO kept.tickets SELECT j, 'many', 'rows' FROM generate_series(301, 306) j;
END$$;
SELECT drained();
SELECT count(*), count(topic) FROM kept.tickets;
DELETE FROM kept.tickets;

-- an input of a type whose text is made by a function of its owner
BEGIN;
CREATE TYPE kept.mood AS ENUM ('charged twice', 'cannot log in');
CREATE FUNCTION kept.mood_json(kept.mood) RETURNS json STABLE LANGUAGE sql AS $$SELECT to_json('mood: ' || $1::text) WHERE (SELECT count(*) >= 0 FROM kept.tickets)$$;
CREATE CAST (kept.mood AS json) WITH FUNCTION kept.mood_json(kept.mood);
ALTER TYPE kept.mood OWNER TO regress_ia3_keeper;
CREATE TABLE kept.moods (id int PRIMARY KEY, mood kept.mood, topic text);
ALTER TABLE kept.moods OWNER TO regress_ia3_keeper;
SELECT ia3_watch('kept.moods', 'later', 'mood', 'topic', mode => 'deferred');
INSERT INTO kept.moods VALUES (1, 'charged twice'), (2, 'cannot log in'), (3, NULL);
COMMIT;
SELECT drained();
SELECT id, topic IS NOT DISTINCT FROM ia3_predict('later', 'mood: ' || mood::text) AS predicted, topic IS NULL AS none FROM kept.moods ORDER BY id;
-- a row of the table as the input
SELECT ia3_unwatch('kept.moods');
SELECT ia3_watch('kept.moods', 'later', 'moods', 'topic', mode => 'deferred');
INSERT INTO kept.moods VALUES (4, 'charged twice');
SELECT drained();
SELECT count(*) FROM ia3.watch_failed_rows;
SELECT count(topic) FROM kept.moods WHERE id = 4;
DROP TABLE kept.moods;
DROP TYPE kept.mood CASCADE;

-- the end of a watch, and what waits for it
BEGIN;
INSERT INTO kept.tickets SELECT i, 'many', 'rows' FROM generate_series(301, 310) i;
SET LOCAL client_min_messages = notice;
SELECT ia3_unwatch('kept.tickets');
SELECT count(*) FROM ia3.watch_entry;
ROLLBACK;
SELECT ia3_unwatch('kept.tickets');
INSERT INTO kept.tickets VALUES (1, 'not', 'watched');
SELECT count(*) FROM ia3.watch_entry;
-- the table itself
SELECT ia3_watch('kept.tickets', 'later', 'body', 'topic', mode => 'deferred');
BEGIN;
INSERT INTO kept.tickets VALUES (2, 'dropped', 'with the table');
DROP TABLE kept.tickets CASCADE;
SELECT * FROM ia3.watch_queue;
COMMIT;
SELECT drained();

-- keys of any type, and of several columns, whatever the settings of the session are; partitions
CREATE TABLE kept.keys (t text, d date, n numeric, f float8, i interval, a int[], c char(5), b bytea, z timestamptz, body text, topic text,
    PRIMARY KEY (t, d, n, f, i, a, c, b, z));
ALTER TABLE kept.keys OWNER TO regress_ia3_keeper;
SELECT ia3_watch('kept.keys', 'later', 'body', 'topic', mode => 'deferred');
BEGIN;
SET LOCAL DateStyle = 'SQL, DMY';
SET LOCAL IntervalStyle = 'sql_standard';
SET LOCAL extra_float_digits = -10;
SET LOCAL bytea_output = 'escape';
SET LOCAL TimeZone = 'Asia/Kolkata';
INSERT INTO kept.keys VALUES ('a "quoted", {text} \ NULL', '01/02/2024', 1.50, 1::float8 / 3, '-1 day +2 hours', '{1,NULL,3}', 'ab', '\x0001ff', '01/02/2024 03:04:05.678', 'charged'),
    ('', '-infinity', 'NaN', '-0', '1 year', '{}', '', '', 'infinity', 'no password'), ('NULL', 'epoch', 0, 'NaN', '0', '{{1,2},{3,4}}', 'x', '\x5c', 'epoch', 'log in');
COMMIT;
SELECT drained();
SELECT topic = ia3_predict('later@1', body) AS predicted FROM kept.keys;
CREATE TABLE kept.parts (id int, kind text, body text, topic text, PRIMARY KEY (kind, id)) PARTITION BY LIST (kind);
CREATE TABLE kept.part_a PARTITION OF kept.parts FOR VALUES IN ('a');
CREATE TABLE kept.part_b PARTITION OF kept.parts FOR VALUES IN ('b');
ALTER TABLE kept.parts OWNER TO regress_ia3_keeper;
ALTER TABLE kept.part_a OWNER TO regress_ia3_keeper;
ALTER TABLE kept.part_b OWNER TO regress_ia3_keeper;
SELECT ia3_watch('kept.parts', 'later', 'body', 'topic', mode => 'deferred');
BEGIN;
INSERT INTO kept.parts VALUES (1, 'a', 'charged'), (1, 'b', 'log in'), (2, 'a', 'charged');
UPDATE kept.parts SET kind = 'b' WHERE id = 2;
COMMIT;
SELECT drained();
SELECT tableoid::regclass, id, topic = ia3_predict('later@1', body) AS predicted FROM kept.parts ORDER BY 1, 2;

-- a row that cannot be labelled blocks nothing, and is set aside; it is done when it is corrected, or tried again
SHOW ia3.watch_attempts;
CREATE TABLE kept.bad (id int PRIMARY KEY, body text, n int, topic text CHECK (topic <> 'access' OR id <> 7));
ALTER TABLE kept.bad OWNER TO regress_ia3_keeper;
SELECT ia3_watch('kept.bad', 'later', 'body || 100 / n', 'topic', mode => 'deferred');
INSERT INTO kept.bad SELECT i, 'charged', CASE i WHEN 3 THEN 0 WHEN 5 THEN 0 ELSE 1 END FROM generate_series(1, 10) i WHERE i <> 7;
SELECT drained();
SELECT relation, label_column, waiting, set_aside, attempts, next_attempt, last_error FROM ia3.watch_queue;
SELECT relation, key, attempts, set_aside, next_attempt, error FROM ia3.watch_failed_rows ORDER BY key;
SET ROLE regress_ia3_writer;
SELECT * FROM ia3.watch_failed_rows;
RESET ROLE;
SELECT count(topic) FROM kept.bad;
UPDATE kept.bad SET n = 2 WHERE id = 3;
SELECT drained();
SELECT relation, key, attempts FROM ia3.watch_failed_rows ORDER BY key;
SELECT ia3_watch_retry('kept.bad', 'nothing');
ALTER TABLE kept.bad DISABLE TRIGGER USER;
UPDATE kept.bad SET n = 2 WHERE id = 5;
ALTER TABLE kept.bad ENABLE TRIGGER USER;
SET ROLE regress_ia3_keeper;
SELECT ia3_watch_retry('kept.bad');
RESET ROLE;
SELECT drained();
SELECT count(*) FROM ia3.watch_failed_rows;
SELECT count(topic) FROM kept.bad;
SELECT ia3_unwatch('kept.bad');
-- a watch that cannot work delays its own rows only
SELECT ia3_train('soon', $$VALUES ('I was charged twice', 'billing'), ('cannot log in', 'access')$$, steps => 1, seed => 1);
SELECT ia3_grant('soon', 'regress_ia3_keeper');
SELECT ia3_watch('kept.bad', 'soon', 'body', 'topic', mode => 'deferred');
SELECT ia3_drop('soon');
INSERT INTO kept.bad VALUES (20, 'one', 1);
INSERT INTO kept.parts VALUES (20, 'a', 'another');
SELECT wait_for('SELECT topic IS NOT NULL FROM kept.parts WHERE id = 20');
SELECT wait_for('SELECT count(*) = 1 FROM ia3.watch_queue WHERE attempts > 0');
SELECT relation, waiting, set_aside, last_error FROM ia3.watch_queue;
SELECT ia3_train('soon', $$VALUES ('I was charged twice', 'billing'), ('cannot log in', 'access')$$, steps => 1, seed => 1);
SELECT ia3_grant('soon', 'regress_ia3_keeper');
SELECT ia3_watch_retry('kept.bad');
SELECT drained();
SELECT topic = ia3_predict('soon', body) AS predicted FROM kept.bad WHERE id = 20;
SELECT count(*) FROM ia3.watch_failure;
-- a table whose owner becomes a superuser
ALTER TABLE kept.bad OWNER TO CURRENT_USER;
INSERT INTO kept.bad VALUES (21, 'two', 1);
SELECT wait_for('SELECT count(*) = 1 FROM ia3.watch_queue WHERE attempts > 0');
SELECT relation, waiting, set_aside, last_error FROM ia3.watch_queue;
DROP TABLE kept.bad;

-- a hostile owner: nothing of his runs with other rights than his own, also not what is deferred to the end of the transaction
CREATE TABLE kept.trap (id int PRIMARY KEY, body text, topic text);
CREATE TABLE kept.log (place text, said text);
ALTER TABLE kept.trap OWNER TO regress_ia3_keeper;
ALTER TABLE kept.log OWNER TO regress_ia3_keeper;
SET ROLE regress_ia3_keeper;
CREATE FUNCTION kept.attack(place text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    command text;
BEGIN
    INSERT INTO kept.log VALUES (place, current_user);
    FOREACH command IN ARRAY ARRAY['RESET ROLE', 'SET ROLE NONE', 'RESET SESSION AUTHORIZATION', 'ALTER ROLE regress_ia3_keeper SUPERUSER', 'SET SESSION AUTHORIZATION DEFAULT',
        'CREATE TEMP TABLE kept_temp (a int)', 'DECLARE c CURSOR WITH HOLD FOR SELECT kept.attack(''cursor'')', 'LISTEN kept', 'SELECT count(*) FROM ia3.watch_entry']
    LOOP
        BEGIN
            EXECUTE command;
            INSERT INTO kept.log VALUES (place, command || ': done');
        EXCEPTION WHEN OTHERS THEN
            INSERT INTO kept.log VALUES (place, command || ': ' || SQLERRM);
        END;
    END LOOP;
    INSERT INTO kept.log VALUES (place, current_user);
END$$;
CREATE FUNCTION kept.read(body text) RETURNS text LANGUAGE plpgsql AS $$BEGIN PERFORM kept.attack('input'); RETURN body; END$$;
CREATE FUNCTION kept.fired() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM kept.attack(TG_ARGV[0]); RETURN NEW; END$$;
CREATE TRIGGER before BEFORE UPDATE ON kept.trap FOR EACH ROW EXECUTE FUNCTION kept.fired('before');
CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON kept.trap DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION kept.fired('late');
SELECT ia3_watch('kept.trap', 'later', 'kept.read(body)', 'topic', mode => 'deferred');
RESET ROLE;
INSERT INTO kept.trap VALUES (1, 'charged twice');
SELECT drained();
SELECT topic = ia3_predict('later@1', body) AS predicted FROM kept.trap;
SELECT DISTINCT place, said FROM kept.log ORDER BY 1, 2;
SELECT rolsuper FROM pg_roles WHERE rolname = 'regress_ia3_keeper';
-- nor do his settings and advisory locks outlive a batch
CREATE OR REPLACE FUNCTION kept.read(body text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_lock(4711), set_config('search_path', 'kept', false);
    RETURN body;
END$$;
INSERT INTO kept.trap VALUES (2, 'charged twice');
SELECT drained();
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711;
SELECT ia3_unwatch('kept.trap');
DROP SCHEMA kept CASCADE;
SELECT ia3_revoke('later', 'regress_ia3_keeper'), ia3_revoke('soon', 'regress_ia3_keeper');
SELECT drained();
SELECT count(ia3_drop(task)) FROM ia3.task WHERE task IN ('later', 'soon');
DROP ROLE regress_ia3_keeper, regress_ia3_writer;
