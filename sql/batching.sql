-- Rows reach the engine in batches: what EXPLAIN shows, and how many rows are predicted. That batching changes no result
-- is tested by t/010_batching.pl.
SET client_min_messages = warning;
SET max_parallel_workers_per_gather = 0;

CREATE TABLE notes (id int PRIMARY KEY, body text, kind text, doc jsonb);
INSERT INTO notes SELECT i, CASE WHEN i % 10 <> 0 THEN 'note ' || i END, 'kind ' || i % 3,
    jsonb_build_object('text', 'note ' || i) FROM generate_series(1, 20) i;
ANALYZE notes;

-- the read-ahead nodes of a query's plan, after it ran
CREATE FUNCTION readahead(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE line text;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) ' || query LOOP
        IF line ~ 'Ia3ReadAhead' THEN
            RETURN NEXT regexp_replace(trim(line), '^(-> +)?(.*?) \((actual|never).*$', '\2');
        ELSIF line ~ '(Batched Calls|Batches|Batched Rows|Largest Batch): ' THEN
            -- PostgreSQL 18 qualifies columns where there is a GROUP BY
            RETURN NEXT '  ' || replace(trim(line), 'notes.', '');
        END IF;
    END LOOP;
END $$;
-- how many rows the engine predicts for a query
CREATE FUNCTION asked(query text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE before bigint; after bigint;
BEGIN
    SELECT rows INTO before FROM ia3_stat_engine;
    EXECUTE query;
    SELECT rows INTO after FROM ia3_stat_engine;
    RETURN after - before;
END $$;
-- predict once, so that the engine has been loaded
SELECT ia3_predict('text', ARRAY['a', 'b']) IN ('a', 'b') AS answered;

-- calls are batched wherever SQL allows them
SELECT readahead($$SELECT n.id, c.* FROM notes n, ia3_classify(n.body, ARRAY['a', 'b']) c$$);
SELECT readahead($$SELECT n.id, c.* FROM notes n LEFT JOIN LATERAL ia3_classify(n.body, ARRAY['a', 'b']) c ON c.score > -1$$);
SELECT readahead($$SELECT n.id, c.choice FROM notes n,
    LATERAL (SELECT choice FROM ia3_classify(n.body, ARRAY['a', 'b']) ORDER BY score LIMIT 1) c$$);
SELECT readahead($$SELECT id, ia3_predict(body, ARRAY['a', 'b']) FROM notes$$);
SELECT readahead($$SELECT id, ia3_classify(body, ARRAY['a', 'b']) FROM notes$$);
SELECT readahead($$SELECT id FROM notes WHERE ia3_predict(body, ARRAY['a', 'b']) = 'a' AND id > 2$$);
SELECT readahead($$SELECT count(DISTINCT ia3_predict(body, ARRAY['a', 'b'])) FROM notes$$);
SELECT readahead($$SELECT kind FROM notes GROUP BY kind
    HAVING ia3_predict(string_agg(body, ' ' ORDER BY id), ARRAY['a', 'b']) <> 'c'$$);
SELECT readahead($$SELECT id, (SELECT choice FROM ia3_classify(n.body, ARRAY['a', 'b']) WHERE rank = 1) FROM notes n$$);
SELECT readahead($$UPDATE notes SET kind = ia3_predict(body, ARRAY['a', 'b'])$$);
SELECT readahead($$INSERT INTO notes SELECT id + 100, ia3_predict(body, ARRAY['a', 'b']) FROM notes$$);
DELETE FROM notes WHERE id > 100;
UPDATE notes SET kind = 'kind ' || id % 3;

-- of two conditions, the second sees only rows that passed the first
SELECT readahead($$SELECT id FROM notes WHERE ia3_predict(body, ARRAY['a', 'b']) = 'nothing'
    AND ia3_predict(body, ARRAY['c', 'd']) = 'c'$$);
-- a nested call needs the answer of the inner one
SELECT readahead($$SELECT ia3_predict(ia3_predict(body, ARRAY['a', 'b']), ARRAY['c', 'd']) FROM notes$$);
-- a call that is repeated and a text that is repeated are predicted once; NULLs are not predicted
SELECT readahead($$SELECT ia3_predict(body, ARRAY['a', 'b']), upper(ia3_predict(body, ARRAY['a', 'b'])) FROM notes$$);
SELECT readahead($$SELECT ia3_predict(kind, ARRAY['a', 'b']) FROM notes$$);
-- this holds across batches
SET ia3.batch_rows = 4;
SELECT readahead($$SELECT ia3_predict(kind, ARRAY['a', 'b']) FROM notes$$);
SELECT readahead($$SELECT ia3_predict(body, ARRAY['a', 'b']) FROM notes$$);
RESET ia3.batch_rows;
-- conditions are evaluated first
SELECT readahead($$SELECT CASE WHEN id <= 3 THEN ia3_predict(body, ARRAY['a', 'b']) END FROM notes$$);
SELECT readahead($$SELECT coalesce(CASE WHEN id > 3 THEN kind END, ia3_predict(body, ARRAY['a', 'b'])) FROM notes$$);
SELECT readahead($$SELECT count(*) FILTER (WHERE id > 15 AND ia3_predict(body, ARRAY['a', 'b']) = 'a') FROM notes$$);
SELECT readahead($$SELECT id FROM notes WHERE id <= 3 OR ia3_predict(body, ARRAY['a', 'b']) = 'c'$$);

-- a limit is followed exactly; where its effect on the rows read is not known, batches have 1, 2, 4, ... rows
SELECT readahead($$SELECT id, ia3_predict(body, ARRAY['a', 'b']) FROM notes ORDER BY id LIMIT 3$$);
SELECT readahead($$SELECT id, ia3_predict(body, ARRAY['a', 'b']) FROM notes ORDER BY kind, id LIMIT 3 OFFSET 2$$);
SELECT readahead($$SELECT n.id, c.choice FROM notes n, ia3_classify(n.body, ARRAY['a', 'b']) c LIMIT 1$$);
SELECT readahead($$SELECT n.id, c.choice FROM notes n, ia3_classify(n.body, ARRAY['a', 'b']) c LIMIT 8$$);
SELECT readahead($$SELECT id FROM notes WHERE ia3_predict(body, ARRAY['a', 'b']) <> 'c' ORDER BY id LIMIT 4$$);
SELECT readahead($$SELECT id, ia3_predict(body, ARRAY['a', 'b']) FROM notes LIMIT 0$$);
SELECT asked($$DECLARE two CURSOR FOR SELECT ia3_predict(body, ARRAY['a', 'b']) FROM notes ORDER BY id; FETCH 2 FROM two;
    CLOSE two$$);
-- a sort below the node still knows the limit
CREATE FUNCTION sort_method(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE line text;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) ' || query LOOP
        RETURN QUERY SELECT m[1] FROM regexp_matches(line, 'Sort Method: (.*?)  Memory') m;
    END LOOP;
END $$;
SELECT sort_method($$SELECT id, ia3_predict(body, ARRAY['a', 'b']) FROM notes ORDER BY kind, id LIMIT 3$$);
SELECT sort_method($$SELECT n.id, (SELECT x FROM (SELECT ia3_predict(body, ARRAY['a', 'b']) x FROM notes m WHERE m.id > n.id
    ORDER BY kind LIMIT 1) s) FROM notes n WHERE id < 3$$);

-- what must not be read ahead is read row by row
SELECT readahead($$SELECT n.id, c.choice FROM (SELECT * FROM notes FOR UPDATE) n, ia3_classify(n.body, ARRAY['a', 'b']) c LIMIT 3$$);
SELECT readahead($$SELECT id FROM notes WHERE pg_try_advisory_xact_lock(id) AND ia3_predict(body, ARRAY['a', 'b']) = 'a' LIMIT 3$$);
SELECT readahead($$SELECT id FROM notes WHERE ia3_predict('q' || 1 / id, ARRAY['a', 'b']) = 'a' LIMIT 3$$);
SELECT readahead($$SELECT id, ia3_predict(body || random(), ARRAY['a', 'b']) IN ('a', 'b') FROM notes$$);

-- constant arguments are predicted once for all rows
SELECT asked($$CREATE TEMP TABLE t AS SELECT id, ia3_predict('constant', ARRAY['a', 'b']) FROM notes$$);
-- and for all iterations of a loop; but a version that is activated in between is used at once, and only while it is active
CREATE TABLE shots (text text, label text);
INSERT INTO shots VALUES ('x', 'a');
SELECT ia3_train('memo', 'SELECT * FROM shots', choices => ARRAY['a', 'b'], steps => 20, learning_rate => 0.1, seed => 1);
UPDATE shots SET label = 'b';
SELECT ia3_train('memo', 'SELECT * FROM shots', choices => ARRAY['a', 'b'], steps => 20, learning_rate => 0.1, seed => 1);
SELECT asked($$DO 'DECLARE p text; BEGIN FOR i IN 1 .. 50 LOOP p := ia3_predict(''memo'', ''x''); END LOOP; END'$$);
DO $$
DECLARE p text; q text; r text;
BEGIN
    FOR i IN 1 .. 4 LOOP
        PERFORM ia3_activate('memo', 1 + i % 2);
        FOR k IN 1 .. 2 LOOP
            p := ia3_predict('memo', 'x');
            IF k = 2 THEN
                r := p;
            ELSE
                BEGIN
                    PERFORM ia3_activate('memo', 2 - i % 2);
                    q := ia3_predict('memo', 'x');
                    RAISE EXCEPTION 'undo';
                EXCEPTION WHEN raise_exception THEN NULL;
                END;
            END IF;
        END LOOP;
        RAISE INFO 'version %: %, then %, then %', 1 + i % 2, p, q, r;
    END LOOP;
END $$;

-- under all names
SELECT call, array_to_string(ARRAY(SELECT l FROM readahead('SELECT id, ' || call || ' FROM notes') l WHERE l !~ 'Calls'), ' ')
  FROM unnest(ARRAY[
    $$ia3_predict('memo', body)$$, $$ia3_predict('memo', doc)$$, $$ia3_predict('memo', doc::json)$$,
    $$ia3_predict_fields('memo', doc)$$, $$ia3_predict_fields('memo', doc::json)$$, $$ia3_predict_fields('memo', doc::text)$$,
    $$ia3_predict_fields('memo', doc, ARRAY['a', 'b'])$$, $$ia3_predict_fields('memo', doc::json, ARRAY['a', 'b'])$$,
    $$ia3_predict_fields('memo', doc::text, ARRAY['a', 'b'])$$,
    $$ia3_predict_zero_shot(body, ARRAY['a', 'b'])$$, $$ia3_zero_shot(body, ARRAY['a', 'b'])$$,
    $$ia3_classify('memo', doc::json)$$, $$ia3_classify_fields('memo', doc)$$, $$ia3_classify_fields('memo', doc::json)$$,
    $$ia3_classify_fields('memo', doc::text)$$, $$ia3_classify_zero_shot(body, ARRAY['a', 'b'])$$,
    $$ia3_generate('memo', doc::json, 2)$$, $$ia3_generate_fields('memo', doc, 2)$$,
    $$ia3_generate_fields('memo', doc::json, 2)$$, $$ia3_generate_fields('memo', doc::text, 2)$$,
    $$ia3_generate_zero_shot(body, 2)$$]) call;
-- text that is not JSON, or is nested too deep, is an error of its row and not of the rows that were read with it
CREATE TABLE texts (id int, doc text);
INSERT INTO texts SELECT i, CASE i WHEN 5 THEN '{"text": ' WHEN 6 THEN repeat('[', 100000) WHEN 7 THEN '7' ELSE '{"text": "x"}' END
    FROM generate_series(1, 8) i;
SELECT asked($$DO 'DECLARE n int; BEGIN SELECT count(*) INTO n FROM (SELECT FROM texts
    WHERE ia3_predict_fields(''memo'', doc, ARRAY[''a'', ''b'', id::text]) <> ''c'' LIMIT 4) s; RAISE INFO ''% rows'', n; END'$$);
SELECT count(ia3_predict_fields('memo', doc)) FROM texts WHERE id NOT IN (5, 6, 7);
SELECT count(ia3_predict_fields('memo', doc)) FROM texts WHERE id <> 6;
\set VERBOSITY sqlstate
SELECT count(ia3_predict_fields('memo', doc)) FROM texts WHERE id <> 5;
\set VERBOSITY default
DROP TABLE texts;
SELECT ia3_drop('memo');
DROP TABLE shots;
-- EXPLAIN without ANALYZE predicts nothing
SELECT asked($$EXPLAIN SELECT id, ia3_predict(body, ARRAY['a', 'b']), ia3_predict('constant', ARRAY['a', 'b']) FROM notes$$);

-- a cursor that can move backward and be used for positioned updates without read-ahead nodes can do both with them
BEGIN;
DECLARE here CURSOR FOR SELECT id, ia3_predict(body, ARRAY['a', 'b']) IS NOT NULL AS p FROM notes WHERE id < 12;
FETCH BACKWARD here;
FETCH 5 FROM here;
UPDATE notes SET kind = 'here' WHERE CURRENT OF here RETURNING id;
FETCH BACKWARD 2 FROM here;
FETCH RELATIVE 0 FROM here;
DELETE FROM notes WHERE CURRENT OF here RETURNING id;
MOVE 2 FROM here;
FETCH here;
FETCH LAST FROM here;
FETCH here;
FETCH PRIOR FROM here;
FETCH ABSOLUTE 2 FROM here;
MOVE BACKWARD ALL FROM here;
FETCH here;
SELECT id, kind FROM notes WHERE id < 8 ORDER BY id;
ROLLBACK;
-- also if PostgreSQL looks for the table in the branches of an Append, whether calls are above it or below
CREATE TABLE notes_child () INHERITS (notes);
INSERT INTO notes_child SELECT 30 + i, 'child ' || i, 'child' FROM generate_series(1, 4) i;
BEGIN;
DECLARE here CURSOR FOR SELECT id, ia3_predict(body, ARRAY['a', 'b']) IS NOT NULL AS p FROM notes;
MOVE 20 FROM here;
UPDATE notes SET kind = 'here' WHERE CURRENT OF here RETURNING id;
FETCH 3 FROM here;
UPDATE notes SET kind = 'here' WHERE CURRENT OF here RETURNING id;
DECLARE there CURSOR FOR SELECT id, ia3_predict(body, ARRAY['a', 'b']) IS NOT NULL AS p FROM
    (SELECT * FROM notes WHERE id > 3 OFFSET 0) n WHERE id > 30;
FETCH 2 FROM there;
UPDATE notes SET kind = 'there' WHERE CURRENT OF there RETURNING id;
ROLLBACK;
DROP TABLE notes_child;
-- the rows of such cursors are predicted in batches as well
SELECT asked($$DECLARE three SCROLL CURSOR FOR SELECT ia3_predict(body, ARRAY['a', 'b']) FROM notes; FETCH 9 FROM three;
    CLOSE three$$);
-- a loop that updates what it reads
DO $$
DECLARE c CURSOR FOR SELECT id, ia3_predict(body, ARRAY['a', 'b']) AS p FROM notes;
BEGIN
    FOR r IN c LOOP
        UPDATE notes SET kind = kind || coalesce(r.p IS NOT NULL, false) WHERE CURRENT OF c;
    END LOOP;
    RAISE INFO '% rows', (SELECT count(*) FROM notes WHERE kind LIKE '%true');
    UPDATE notes SET kind = 'kind ' || id % 3;
END $$;

-- what a column or a condition below the calls might raise is raised for a row that is reached, and only then
BEGIN;
DECLARE here CURSOR FOR SELECT id, 1 / (id - 5), ia3_predict(body, ARRAY['a', 'b']) IS NOT NULL AS p FROM notes;
FETCH 4 FROM here;
SAVEPOINT s;
FETCH here;
ROLLBACK TO s;
DECLARE there CURSOR FOR SELECT id, ia3_predict(body, ARRAY['a', 'b']) IS NOT NULL AS p FROM notes WHERE 1 / (id - 5) < 2;
FETCH 4 FROM there;
FETCH there;
ROLLBACK;
-- likewise for a call in the arguments of another
BEGIN;
DECLARE here CURSOR FOR SELECT id, ia3_predict(ia3_predict(body, CASE WHEN id = 3 THEN ARRAY['a', 'a'] ELSE ARRAY['a', 'b'] END),
    ARRAY['c', 'd']) IS NOT NULL AS p FROM notes;
FETCH 2 FROM here;
FETCH here;
ROLLBACK;
-- so the rows of the second cursor are read one by one; but not those of conditions that cannot fail
SELECT asked($$DECLARE c CURSOR FOR SELECT ia3_predict(body, ARRAY['a', 'b']) FROM notes WHERE id / 1 > 0; FETCH 5 FROM c; CLOSE c$$);
SELECT asked($$DECLARE c CURSOR FOR SELECT ia3_predict(body, ARRAY['a', 'b']) FROM notes
    WHERE body LIKE 'note%' AND substr(body, 1, 4) = 'note' AND split_part(body, ' ', 1) ~ '^n'
      AND id IN (1, 2, 3, 4, 5, 6, 7, 8) AND now() - interval '1 day' < now(); FETCH 5 FROM c; CLOSE c$$);
SELECT asked($$DECLARE c CURSOR FOR SELECT id * 2, ia3_predict(body, ARRAY['a', 'b']) FROM notes; FETCH 5 FROM c; CLOSE c$$);
-- the side effects of a column are those of the rows that are reached
CREATE SEQUENCE reached;
SELECT asked($$DECLARE c CURSOR FOR SELECT nextval('reached'), ia3_predict(body, ARRAY['a', 'b']) FROM notes; FETCH 5 FROM c; CLOSE c$$);
SELECT last_value FROM reached;
DROP SEQUENCE reached;

-- a batch whose answers might be too long for one reply is sent in several requests
SET ia3.batch_rows = 2000;
SELECT readahead($$SELECT ia3_generate('g ' || g, 1024) FROM generate_series(1, 1030) g$$);
RESET ia3.batch_rows;

-- batching can be switched off, for new plans and for existing ones
PREPARE p AS SELECT id, ia3_predict(body, ARRAY['a', 'b']) FROM notes;
SET plan_cache_mode = force_generic_plan;
SELECT readahead('EXECUTE p');
SET ia3.enable_batching = off;
SELECT readahead('EXECUTE p');
SELECT readahead($$SELECT id, ia3_predict(body, ARRAY['a', 'b']) FROM notes$$);
RESET ia3.enable_batching;
RESET plan_cache_mode;

-- parallel workers report their counts
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
SELECT l FROM readahead($$SELECT id, ia3_predict(body, ARRAY['a', 'b']) FROM notes$$) l WHERE l !~ 'Batches|Largest';
-- from here on the leader raises all errors
SET max_parallel_workers_per_gather = 0;

-- the window function gives the same answers, in few batches, and respects a limit
SELECT count(*), count(p) FROM (SELECT id, ia3_predict_window(body, ARRAY['a', 'b']) OVER () IS NOT DISTINCT FROM
    ia3_predict(body, ARRAY['a', 'b']) AS p FROM notes) s WHERE p;
SELECT asked($$CREATE TEMP TABLE w AS SELECT id, ia3_predict_window(body, ARRAY['a', 'b']) OVER () FROM notes$$);
SELECT asked($$CREATE TEMP TABLE w3 AS SELECT id, ia3_predict_window(body, ARRAY['a', 'b']) OVER () FROM notes LIMIT 3$$);
SELECT ia3_predict(body, ARRAY['a', 'b']) OVER () FROM notes;

-- rows whose task or choices are invalid fail; the others do not
SELECT id, ia3_predict(CASE WHEN id = 4 THEN 'nosuchtask' END, body, ARRAY['a', 'b']) FROM notes WHERE id <> 4 AND id < 6;
SELECT id, ia3_predict(CASE WHEN id = 4 THEN 'nosuchtask' END, body, ARRAY['a', 'b']) FROM notes ORDER BY id LIMIT 3;
SELECT id, ia3_predict(CASE WHEN id = 4 THEN 'nosuchtask' END, body, ARRAY['a', 'b']) FROM notes ORDER BY id LIMIT 4;
SELECT count(ia3_predict(body, CASE WHEN id = 4 THEN ARRAY['a', 'a'] ELSE ARRAY['a', 'b'] END)) FROM notes WHERE id <> 4;
SELECT count(ia3_predict(body, CASE WHEN id = 4 THEN ARRAY['a', 'a'] ELSE ARRAY['a', 'b'] END)) FROM notes;

DROP FUNCTION readahead, asked, sort_method;
DROP TABLE notes;
