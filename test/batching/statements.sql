-- Statements other than plain SELECTs, and what may go wrong while reading ahead; used like corpus.sql. There is one statement
-- per line.
--
-- name: insert_select
BEGIN;
CREATE TEMP TABLE out AS SELECT id, ia3_predict(task, body, choices) p FROM tickets;
INSERT INTO out SELECT id + 100, ia3_predict('mood', body, choices) FROM tickets WHERE ia3_predict(task, body, choices) <> 'bug';
SELECT * FROM out;
ROLLBACK;
-- name: insert_returning
BEGIN;
CREATE TEMP TABLE out (id int, p text);
INSERT INTO out SELECT id, body FROM tickets RETURNING id, ia3_predict('mood', p, ARRAY['x', 'y']);
ROLLBACK;
-- name: update
BEGIN;
UPDATE docs SET label = ia3_predict('topic', doc, ARRAY['bug', 'feature', 'question']) WHERE label IS NULL;
SELECT id, label FROM docs;
UPDATE docs SET label = 'mood' WHERE ia3_predict('mood', doc, ARRAY['bug', 'feature', 'question']) = 'question';
SELECT id, label FROM docs;
ROLLBACK;
-- name: update_join
BEGIN;
UPDATE docs d SET label = c.choice FROM tickets t, LATERAL ia3_classify(t.task, t.body, t.choices) c WHERE t.id = d.id AND c.rank = 1 RETURNING d.id, d.label;
ROLLBACK;
-- name: update_multi
BEGIN;
UPDATE docs d SET (label, doc) = (SELECT c.choice, to_jsonb(c.score) FROM ia3_classify('topic', d.doc, ARRAY['bug', 'question']) c WHERE rank = 1);
SELECT * FROM docs;
ROLLBACK;
-- name: delete
BEGIN;
DELETE FROM tickets WHERE ia3_predict(task, body, choices) = 'question' RETURNING id;
ROLLBACK;
-- name: delete_using
BEGIN;
DELETE FROM docs d USING tickets t WHERE t.id = d.id AND ia3_predict('mood', t.body, ARRAY['happy', 'angry']) = 'happy' RETURNING d.id;
ROLLBACK;
-- name: merge_statement
BEGIN;
MERGE INTO docs d USING (SELECT id, ia3_predict('topic', body, ARRAY['bug', 'feature', 'question']) p FROM tickets) s ON s.id = d.id WHEN MATCHED AND s.p = 'bug' THEN DELETE WHEN MATCHED THEN UPDATE SET label = s.p WHEN NOT MATCHED THEN INSERT VALUES (s.id, NULL, s.p);
SELECT id, label FROM docs;
ROLLBACK;
-- name: on_conflict
BEGIN;
INSERT INTO docs SELECT id, NULL, ia3_predict(task, body, choices) FROM tickets ON CONFLICT (id) DO UPDATE SET label = ia3_predict('mood', excluded.label, ARRAY['x', 'y']);
SELECT id, label FROM docs;
ROLLBACK;
-- name: writable_cte
BEGIN;
WITH u AS (UPDATE docs SET label = ia3_predict('topic', doc, ARRAY['bug', 'question']) RETURNING id, label) SELECT u.id, u.label, ia3_predict('mood', u.label, ARRAY['x', 'y']) FROM u;
ROLLBACK;
-- name: partition_update
BEGIN;
UPDATE part SET body = ia3_predict('q', body, ARRAY['a', 'b']) WHERE id > 3;
SELECT * FROM part;
ROLLBACK;
-- name: create_table_as
BEGIN;
CREATE TABLE ctas AS SELECT id, c.choice, c.score FROM docs, ia3_classify('q', doc, ARRAY['a', 'b']) c;
SELECT * FROM ctas;
CREATE MATERIALIZED VIEW mv AS SELECT id, ia3_predict('q', doc, ARRAY['a', 'b']) FROM docs;
SELECT * FROM mv;
ROLLBACK;
-- name: copy_out
COPY (SELECT id, ia3_predict('q', doc, ARRAY['a', 'b']) FROM docs) TO STDOUT;
-- name: cursor
BEGIN;
DECLARE c CURSOR FOR SELECT id, ia3_predict(task, body, choices) FROM tickets ORDER BY id;
FETCH 3 FROM c;
SELECT count(*) FROM (SELECT ia3_predict('mood', body, choices) FROM tickets OFFSET 0) s;
FETCH 10 FROM c;
FETCH ALL FROM c;
ROLLBACK;
-- name: cursor_scroll
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT id, ia3_predict(task, body, choices) FROM tickets ORDER BY id;
FETCH 5 FROM c;
FETCH BACKWARD 3 FROM c;
FETCH LAST FROM c;
ROLLBACK;
-- name: cursor_hold
BEGIN;
DECLARE ch CURSOR WITH HOLD FOR SELECT id, ia3_predict(task, body, choices) FROM tickets ORDER BY id;
FETCH 2 FROM ch;
COMMIT;
FETCH ALL FROM ch;
CLOSE ch;
-- name: cursor_savepoint
BEGIN;
DECLARE c NO SCROLL CURSOR FOR SELECT id, ia3_predict(task, body, choices) FROM tickets ORDER BY id;
FETCH 2 FROM c;
SAVEPOINT s;
FETCH 4 FROM c;
SELECT 1 / 0;
ROLLBACK TO s;
FETCH 4 FROM c;
FETCH ALL FROM c;
ROLLBACK;
-- name: cursor_two
BEGIN;
DECLARE c1 CURSOR FOR SELECT id, ia3_predict(task, body, choices) FROM tickets ORDER BY id;
DECLARE c2 CURSOR FOR SELECT id, ia3_predict(task, body, choices) FROM tickets ORDER BY id DESC;
FETCH 7 FROM c1;
FETCH 7 FROM c2;
FETCH 7 FROM c1;
CLOSE c1;
FETCH ALL FROM c2;
COMMIT;
-- name: cursor_for_update
BEGIN;
DECLARE c CURSOR FOR SELECT id, ia3_predict('q', doc, ARRAY['a', 'b']) FROM docs WHERE id < 5 FOR UPDATE;
FETCH 2 FROM c;
UPDATE docs SET label = 'here' WHERE CURRENT OF c;
SELECT id, label FROM docs WHERE label = 'here';
ROLLBACK;
-- name: cursor_settings_change
BEGIN;
DECLARE c CURSOR FOR SELECT id, c.* FROM bigx, ia3_classify('q', body, ARRAY['a', 'b']) c;
FETCH 2 FROM c;
SET LOCAL ia3.max_input_tokens = 20;
FETCH ALL FROM c;
ROLLBACK;
-- name: prepared
PREPARE q(int, text) AS SELECT id, ia3_predict($2, body, choices) FROM tickets WHERE id < $1;
EXECUTE q(5, 'topic');
EXECUTE q(9, 'mood');
SET plan_cache_mode = force_generic_plan;
EXECUTE q(5, 'topic');
EXECUTE q(9, 'mood');
EXECUTE q(9, NULL);
EXECUTE q(9, 'nosuchtask');
RESET plan_cache_mode;
DEALLOCATE q;
-- name: prepared_limit
PREPARE q(int) AS SELECT id, ia3_predict('q' || 1 / (id - 8), body, choices) FROM tickets ORDER BY id LIMIT $1;
SET plan_cache_mode = force_generic_plan;
EXECUTE q(3);
EXECUTE q(7);
EXECUTE q(8);
EXECUTE q(NULL);
EXECUTE q(-1);
RESET plan_cache_mode;
DEALLOCATE q;
-- name: prepared_setting
PREPARE q AS SELECT id, ia3_predict(task, body, choices) FROM tickets;
SET plan_cache_mode = force_generic_plan;
EXECUTE q;
SET ia3.max_input_tokens = 16;
EXECUTE q;
RESET ia3.max_input_tokens;
RESET plan_cache_mode;
DEALLOCATE q;
-- name: plpgsql_loop
DO $$ DECLARE r record; n int := 0; BEGIN FOR r IN SELECT id, ia3_predict(task, body, choices) p FROM tickets LOOP n := n + length(r.p); EXIT WHEN r.id = 12; END LOOP; RAISE EXCEPTION 'n is %', n; END $$;
-- name: plpgsql_function
BEGIN;
CREATE FUNCTION lab(t text) RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN ia3_predict('topic', t, ARRAY['bug', 'feature', 'question']); END $$;
SELECT id, lab(body) FROM tickets;
SELECT id, lab(ia3_predict('mood', body, choices)) FROM tickets;
ROLLBACK;
-- name: plpgsql_exceptions
BEGIN;
CREATE FUNCTION try(t text, c text[]) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT string_agg(ia3_predict(t, body, c), ',' ORDER BY id) FROM tickets); EXCEPTION WHEN OTHERS THEN RETURN sqlerrm; END $$;
SELECT tid, try(name, choices) FROM tasks;
SELECT try('nosuchtask', '{a,b}'), try('topic', '{a,a}'), try('topic', '{}'), try('topic@7', '{a,b}'), try('a@b', '{a,b}');
SELECT id, try('topic', choices), ia3_predict('mood', body, choices) FROM tickets WHERE id < 4;
ROLLBACK;
-- name: trigger
BEGIN;
CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.label := ia3_predict('q', NEW.doc, ARRAY['a', 'b']) || (SELECT count(*) FROM docs WHERE label IS NOT NULL); RETURN NEW; END $$;
CREATE TRIGGER fill BEFORE INSERT OR UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION fill();
UPDATE docs SET label = ia3_predict('topic', doc, ARRAY['bug', 'question']);
SELECT id, label FROM docs;
ROLLBACK;
-- name: row_security
BEGIN;
CREATE ROLE ia3_reader;
GRANT SELECT ON tickets, tasks TO ia3_reader;
CREATE POLICY p ON tickets USING (grp > 4);
ALTER TABLE tickets ENABLE ROW LEVEL SECURITY;
SET LOCAL ROLE ia3_reader;
SELECT id, ia3_predict(body, choices) FROM tickets;
SELECT id FROM tickets WHERE ia3_predict(body, choices) = 'question';
SELECT id, ia3_predict(task, body, choices) FROM tickets;
ROLLBACK;
-- name: security_barrier
BEGIN;
CREATE VIEW sb WITH (security_barrier) AS SELECT * FROM tickets WHERE ia3_predict(task, body, choices) = 'question';
CREATE FUNCTION leak(t text) RETURNS bool LANGUAGE plpgsql COST 0.001 AS $$ BEGIN RAISE NOTICE '%', t; RETURN true; END $$;
SELECT id FROM sb WHERE leak(body);
ROLLBACK;
-- name: security_definer
BEGIN;
CREATE ROLE ia3_other;
CREATE FUNCTION as_other(t text, c text[]) RETURNS text LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$ BEGIN RETURN ia3_predict('topic', t, c); EXCEPTION WHEN OTHERS THEN RETURN sqlerrm; END $$;
ALTER FUNCTION as_other OWNER TO ia3_other;
SELECT id, ia3_predict('topic', body, choices), as_other(body, choices) FROM tickets WHERE id < 6;
ROLLBACK;
-- name: activate_between
BEGIN;
SELECT ia3_train('v', 'SELECT text, label FROM shots', steps => 2, batch_size => 2, learning_rate => 0.2, seed => 5);
DECLARE c CURSOR FOR SELECT id, c.score FROM tickets, ia3_classify('v', body, choices) c WHERE rank = 1;
FETCH 4 FROM c;
SELECT ia3_train('v', 'SELECT text, label FROM shots', steps => 3, batch_size => 2, learning_rate => 0.4, seed => 6);
SELECT id, c.score FROM tickets, ia3_classify('v', body, choices) c WHERE rank = 1;
FETCH ALL FROM c;
SELECT ia3_activate('v', 1);
SELECT id, c.score FROM tickets, ia3_classify('v', body, choices) c WHERE rank = 1;
ROLLBACK;
-- name: activate_within
BEGIN;
SELECT ia3_train('v', 'SELECT text, label FROM shots', steps => 2, batch_size => 2, learning_rate => 0.2, seed => 5);
SELECT ia3_train('v', 'SELECT text, label FROM shots', steps => 3, batch_size => 2, learning_rate => 0.4, seed => 6);
CREATE FUNCTION score() RETURNS float8 LANGUAGE plpgsql AS $$ DECLARE s float8; BEGIN s := (SELECT score FROM ia3_classify('v', 'text', ARRAY['a', 'b']) WHERE rank = 1); RETURN s; END $$;
CREATE FUNCTION best() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN ia3_predict('v', 'text', ARRAY['a', 'b', 'c', 'd']); END $$;
SELECT score(), best();
SAVEPOINT s;
SELECT ia3_activate('v', 1);
SELECT score(), best();
ROLLBACK TO s;
SELECT score(), best();
ROLLBACK;
-- name: unknown_task_some_rows
SELECT id, ia3_predict(CASE WHEN id = 17 THEN 'nosuchtask' ELSE task END, body, choices) FROM tickets ORDER BY id LIMIT 16;
SELECT id, ia3_predict(CASE WHEN id = 17 THEN 'nosuchtask' ELSE task END, body, choices) FROM tickets ORDER BY id LIMIT 17;
SELECT id, CASE WHEN id <> 17 THEN ia3_predict(CASE WHEN id = 17 THEN 'nosuchtask' ELSE task END, body, choices) END FROM tickets;
-- name: bad_choices_some_rows
SELECT id, ia3_predict(task, body, CASE WHEN id = 9 THEN ARRAY['same', 'same'] WHEN id = 11 THEN ARRAY['a', NULL] ELSE choices END) FROM tickets WHERE id NOT IN (9, 11);
SELECT id, ia3_predict(task, body, CASE WHEN id = 9 THEN ARRAY['same', 'same'] ELSE choices END) FROM tickets;
SELECT id, ia3_predict(task, body, CASE WHEN id = 9 THEN ARRAY['a', NULL] ELSE choices END) FROM tickets;
SELECT id, ia3_predict(task, body, CASE WHEN id = 9 THEN ARRAY[['a'], ['b']] ELSE choices END) FROM tickets;
SELECT t.id, c.choice FROM tickets t, LATERAL ia3_classify(task, body, CASE WHEN id = 9 THEN ARRAY['x ', 'x'] ELSE choices END) c ORDER BY t.id LIMIT 24;
-- name: bad_fields_some_rows
SELECT id, ia3_predict('topic', CASE WHEN id = 5 THEN '{"no": 1}' ELSE doc END, ARRAY['a', 'b']) FROM docs WHERE id <> 5;
SELECT id, ia3_predict('topic', CASE WHEN id = 5 THEN '{"no": 1}' ELSE doc END, ARRAY['a', 'b']) FROM docs;
SELECT id, ia3_predict('topic', CASE WHEN id = 5 THEN '[1]' ELSE doc END, ARRAY['a', 'b']) FROM docs;
-- name: forms
SELECT id, ia3_predict('topic', body), ia3_predict(body, choices), ia3_predict('topic', body, choices), ia3_predict('topic', jsonb_build_object('text', body)), ia3_predict('topic', jsonb_build_object('text', body), choices) FROM tickets;
SELECT id, a.score, b.score, c.score FROM tickets, ia3_classify('topic', body) a, ia3_classify(body, choices) b, ia3_classify('topic', jsonb_build_object('text', body), choices) c WHERE a.rank = 1 AND b.rank = 1 AND c.rank = 1;
SELECT id, ia3_predict(task => 'topic', choices => choices, input => body) FROM tickets;
-- name: many_tasks
SELECT n, c.choice, c.score FROM smalltk, LATERAL ia3_classify('p' || n, body, ARRAY['a', 'b', 'c']) c WHERE n > 5;
SELECT s, ia3_predict('p' || s % 90 + 3, 'text ' || s, ARRAY['a', 'b', 'c']) FROM generate_series(1, 120) s;
-- name: side_effects
BEGIN;
CREATE TEMP SEQUENCE seq;
SELECT nextval('seq'), ia3_predict(task, body, choices) FROM tickets ORDER BY id LIMIT 3;
SELECT currval('seq');
SELECT id FROM tickets WHERE nextval('seq') > 0 AND ia3_predict(task, body, choices) = 'question' LIMIT 3;
SELECT currval('seq');
SELECT id, EXISTS (SELECT 1 FROM docs d WHERE nextval('seq') > 0 AND ia3_predict('topic', d.doc, ARRAY['bug', 'question']) = 'question') FROM tickets WHERE id < 3;
SELECT currval('seq');
ROLLBACK;
-- name: locks
BEGIN;
SELECT id FROM tickets WHERE pg_try_advisory_xact_lock(id) AND ia3_predict(task, body, choices) = 'question' ORDER BY id LIMIT 1;
SELECT objid FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid();
ROLLBACK;
-- name: null_arguments
SELECT id, ia3_predict('topic', body, ARRAY['a', 'b']), ia3_predict(NULL, body, ARRAY['a', 'b']), ia3_predict('topic', body, NULL) FROM smalltk;
SELECT id, c.choice FROM smalltk LEFT JOIN LATERAL ia3_classify('topic', body, CASE WHEN n % 2 = 0 THEN ARRAY['a', 'b'] END) c ON c.rank = 1;
-- name: window_function
SELECT id, ia3_predict_window(task, body, choices) OVER () FROM tickets;
SELECT id, ia3_predict_window(task, body, choices) OVER (PARTITION BY grp ORDER BY id) FROM tickets;
SELECT id, ia3_predict_window('topic', body, ARRAY['a', 'b']) OVER () FROM smalltk LIMIT 5;
SELECT id, ia3_predict_window('nosuchtask', body, ARRAY['a', 'b']) OVER () FROM smalltk WHERE body IS NULL;
SELECT id, ia3_predict_window('nosuchtask', body, ARRAY['a', 'b']) OVER () FROM smalltk;
SELECT id, ia3_predict_window('topic', doc) OVER (), ia3_predict_window('topic', doc, ARRAY['x', 'y']) OVER (), ia3_predict_window(doc ->> 'text', ARRAY['x', 'y']) OVER () FROM docs;
-- name: window_argument
SELECT id, lag(ia3_predict(task, body, choices)) OVER (ORDER BY id), count(*) FILTER (WHERE ia3_predict(task, body, choices) = 'bug') OVER (ORDER BY id) FROM tickets;
-- name: row_compare
SELECT id FROM tickets WHERE (grp, ia3_predict(task, body, choices)) < (5, 'feature');
-- name: concat_cursor
BEGIN;
DECLARE c CURSOR FOR SELECT id, ia3_predict('topic', concat(body, ' ', id, ' ', upper(task)), choices) FROM tickets ORDER BY id;
FETCH 5 FROM c;
ROLLBACK;
-- name: risky_early_stop
SELECT id, ia3_predict('q' || 1 / (id - 8), body, choices) FROM tickets ORDER BY id LIMIT 7;
SELECT id FROM tickets WHERE ia3_predict('q' || 1 / (id - 8), body, choices) IS NOT NULL ORDER BY id LIMIT 7;
SELECT t.id, c.choice FROM tickets t, LATERAL ia3_classify('q' || 1 / (id - 8), body, choices) c WHERE rank = 1 ORDER BY t.id LIMIT 7;
SELECT EXISTS (SELECT 1 FROM tickets WHERE ia3_predict('q' || 1 / (id - 3), body, choices) IS NOT NULL);
-- A limit that changes from scan to scan. Parallel plans are excluded, because PostgreSQL 15 itself keeps using the first limit
-- there.
--
-- name: limit_rescanned
BEGIN;
SET LOCAL max_parallel_workers_per_gather = 0;
SELECT t.n, (SELECT string_agg(s.p || s.id, ',') FROM (SELECT id, ia3_predict('topic', body, ARRAY['a','b']) p FROM tickets ORDER BY grp, id LIMIT NULLIF(t.n, 10)) s) FROM smalltk t WHERE t.n < 20 ORDER BY n;
SELECT t.n, (SELECT string_agg(s.p || s.id, ',') FROM (SELECT id, ia3_predict('topic', body, ARRAY['a','b']) p FROM tickets ORDER BY grp, id LIMIT 20 - t.n OFFSET t.n / 4) s) FROM smalltk t WHERE t.n < 20 ORDER BY n;
ROLLBACK;
-- name: limit_rewound
BEGIN;
SET LOCAL max_parallel_workers_per_gather = 0;
SELECT t.n, (SELECT string_agg(x.p || x.id, ',') FROM tasks a LEFT JOIN (SELECT id, ia3_predict('topic', body, ARRAY['a','b']) p FROM tickets ORDER BY grp, id LIMIT t.n) x ON a.tid <> x.id) FROM smalltk t WHERE t.n < 20 ORDER BY n;
ROLLBACK;
-- name: limit_subquery
BEGIN;
SET LOCAL max_parallel_workers_per_gather = 0;
SELECT t.n, (SELECT string_agg(s.p || s.id, ',') FROM (SELECT id, ia3_predict('topic', body, ARRAY['a','b']) p FROM tickets ORDER BY id LIMIT (SELECT count(*) FROM tasks k WHERE k.tid * 5 < t.n)) s) FROM smalltk t WHERE t.n < 20 ORDER BY n;
ROLLBACK;
-- name: risky_cursor
BEGIN;
DECLARE c CURSOR FOR SELECT id, ia3_predict('q' || 1 / (id - 8), body, choices) FROM tickets;
FETCH 2 FROM c;
MOVE 3 FROM c;
FETCH 2 FROM c;
SAVEPOINT s;
FETCH 1 FROM c;
ROLLBACK;
BEGIN;
DECLARE c CURSOR FOR SELECT id, ia3_predict('q' || 1 / (id - 40), body, choices) FROM tickets;
FETCH 2 FROM c;
FETCH ALL FROM c;
ROLLBACK;
-- name: risky_plpgsql
DO $$ DECLARE x text; BEGIN SELECT ia3_predict('q' || 1 / (id - 8), body, choices) INTO x FROM tickets; RAISE EXCEPTION 'into %', x; END $$;
DO $$ DECLARE x text; BEGIN SELECT ia3_predict('q' || 1 / (id - 1), body, choices) INTO x FROM tickets; RAISE EXCEPTION 'into %', x; END $$;
DO $$ DECLARE r record; BEGIN FOR r IN SELECT id, ia3_predict('q' || 1 / (id - 20), body, choices) p FROM tickets LOOP EXIT WHEN r.id = 3; END LOOP; RAISE EXCEPTION 'loop %', r.p; END $$;
DO $$ DECLARE r record; BEGIN FOR r IN EXECUTE 'SELECT id, ia3_predict(''q'' || 1 / (id - 20), body, choices) p FROM tickets' LOOP EXIT WHEN r.id = 3; END LOOP; RAISE EXCEPTION 'loop %', r.p; END $$;
DO $$ DECLARE c CURSOR FOR SELECT id, ia3_predict('q' || 1 / (id - 8), body, choices) p FROM tickets; r record; BEGIN OPEN c; FETCH c INTO r; FETCH c INTO r; CLOSE c; RAISE EXCEPTION 'cursor %', r.p; END $$;
-- name: risky_sql_function
BEGIN;
CREATE FUNCTION first() RETURNS text LANGUAGE sql AS $$ SELECT ia3_predict('q' || 1 / (id - 8), body, choices) FROM tickets $$;
CREATE FUNCTION every() RETURNS SETOF text LANGUAGE sql AS $$ SELECT ia3_predict('q' || 1 / (id - 8), body, choices) FROM tickets $$;
SELECT first();
SELECT every() LIMIT 3;
ROLLBACK;
-- name: risky_empty_hash
BEGIN;
CREATE TEMP TABLE none AS SELECT 'x' || g AS p FROM generate_series(1, 3) g;
ANALYZE none;
DELETE FROM none;
SET LOCAL max_parallel_workers_per_gather = 0;
SET LOCAL enable_nestloop = off;
SET LOCAL enable_mergejoin = off;
SELECT s.id FROM (SELECT id, ia3_predict('q' || 1 / (id - 8), body, choices) p FROM tickets OFFSET 0) s JOIN none e ON e.p = s.p;
SELECT s.id FROM tickets s JOIN none e ON e.p = ia3_predict('q' || 1 / (id - 8), body, choices);
SELECT s.id, e.p FROM (SELECT id, ia3_predict('q' || 1 / (id - 40), body, choices) p FROM tickets OFFSET 0) s LEFT JOIN none e ON e.p = s.p;
ROLLBACK;
-- name: risky_hash_key
BEGIN;
SET LOCAL enable_nestloop = off;
SET LOCAL enable_mergejoin = off;
SELECT a.id, b.id FROM docs a JOIN tickets b ON NULLIF(b.id, 8) = a.id AND ia3_predict('q' || 1 / (b.id - 8), b.body, b.choices) = 'bug' || repeat('x', a.id * 0);
ROLLBACK;
-- name: risky_mixed_aggregate
BEGIN;
SET LOCAL enable_sort = off;
SELECT count(ia3_predict('q' || 1 / (id - 8), body, choices)) FROM (SELECT * FROM tickets ORDER BY id OFFSET 0) t GROUP BY GROUPING SETS ((id), (grp)) LIMIT 2;
ROLLBACK;
-- name: cte_side_effects
BEGIN;
CREATE TEMP SEQUENCE seq;
WITH w AS MATERIALIZED (SELECT id, body, task, choices, nextval('seq') n FROM tickets) SELECT id FROM w WHERE ia3_predict(task, body, choices) <> 'nothing' LIMIT 4;
SELECT currval('seq');
WITH w AS MATERIALIZED (SELECT * FROM tickets WHERE id > 2 FOR UPDATE) SELECT id FROM w WHERE ia3_predict(task, body, choices) <> 'nothing' LIMIT 4;
SELECT id FROM tickets WHERE xmax::text = pg_current_xact_id()::text;
ROLLBACK;
-- name: sees_changes
BEGIN;
CREATE TEMP TABLE out (id int, p text, n bigint);
CREATE FUNCTION so_far(min int) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT count(*) FROM out WHERE id > min); END $$;
INSERT INTO out SELECT id, ia3_predict(task, body, choices), so_far(3) FROM tickets;
SELECT * FROM out;
UPDATE out SET n = so_far(1000), id = id + 1000 WHERE ia3_predict('mood', p, ARRAY['x', 'y']) <> 'z' AND so_far(1000) < 9;
SELECT * FROM out;
ROLLBACK;
-- name: volatile_of_core
BEGIN;
CREATE TEMP TABLE out (id serial, p text);
INSERT INTO out (p) SELECT ia3_predict(task, body, choices) FROM tickets ORDER BY tickets.id;
SELECT * FROM out;
ROLLBACK;
-- name: risky_subscript
SELECT id, (CASE WHEN id <> 8 THEN choices END)[length(ia3_predict('q' || 1 / (id - 8), body, ARRAY['a', 'bb']))] FROM tickets;
