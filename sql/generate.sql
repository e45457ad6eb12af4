-- Generation: greedy, sampled, with and without a task.
SET client_min_messages = warning;

CREATE TABLE gen_shots (id int, text text, label text);
INSERT INTO gen_shots VALUES
    (1, 'I was charged twice this month', 'billing'), (2, 'cannot log in any more', 'access'),
    (3, 'the invoice shows a wrong amount', 'billing'), (4, 'please reset my password', 'access'),
    (5, 'when do I get my refund', 'billing'), (6, 'my account is locked', 'access');
SELECT ia3_train('gen', 'SELECT text, label FROM gen_shots ORDER BY id', steps => 150, learning_rate => 0.01, seed => 7);
-- the same, with a template of two fields and the choices
SELECT ia3_train('gen_fields', $$SELECT text AS body, 'mail' AS kind, label FROM gen_shots ORDER BY id$$,
                 steps => 150, learning_rate => 0.01, seed => 7, template => ARRAY['{kind}: {body} Is it {choices}?']);

-- greedy decoding generates the labels that the task was trained on
SELECT id, label, ia3_generate('gen', text), ia3_generate('gen@1', text, 8) AS pinned FROM gen_shots ORDER BY id;
SELECT id, ia3_generate('gen_fields', jsonb_build_object('body', text, 'kind', 'mail')) AS answer
  FROM gen_shots ORDER BY id LIMIT 2;
SELECT ia3_generate('gen', '{"text": "my account is locked"}'::jsonb, max_tokens => 4);

-- greedy decoding is deterministic, differs from that of the bare backbone, and fewer tokens give the beginning of the text
SELECT count(DISTINCT ia3_generate('the film was awful: negative or positive?')) AS texts,
       bool_and(ia3_generate('the film was awful: negative or positive?') <> '') AS written
  FROM generate_series(1, 5);
SELECT starts_with(ia3_generate('x', 40, 30, seed => 3), ia3_generate('x', 4, 30, seed => 3)) AS prefix,
       length(ia3_generate('x', 40, 30, seed => 3)) > length(ia3_generate('x', 4, 30, seed => 3)) AS longer;

-- sampling: the same seed gives the same text; temperature 0 and top_k 1 are greedy; without a seed one is drawn
SELECT count(DISTINCT ia3_generate('gen', 'x', 8, 5, seed => 1)) AS same,
       count(DISTINCT ia3_generate('gen', 'x', 8, 5, seed => i)) AS seeds,
       count(DISTINCT ia3_generate('gen', 'x', 8, 5)) AS drawn
  FROM generate_series(1, 6) i;
SELECT bool_and(ia3_generate('gen', text, 8, 0, seed => 9) = label) AS cold,
       bool_and(ia3_generate('gen', text, 8, 5, 1) = label) AS top_1,
       bool_and(ia3_generate('gen', text, 8, 0.1, top_k => 3, seed => 4) = label) AS sharp
  FROM gen_shots;
SELECT ia3_generate('gen', '{"text": "my account is locked"}'::jsonb, 8, 5, 1, 1) AS fields,
       ia3_generate('x', 8, 5, 1, 1) = ia3_generate('x', 8) AS zero_shot;

-- the rows of a plan are generated ahead, in one batch, with the results of single calls
SET max_parallel_workers_per_gather = 0;
CREATE TABLE gen_rows AS SELECT i, text || ' (' || i || ')' AS text FROM generate_series(1, 5) i, gen_shots;
CREATE FUNCTION gen_explain(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE line text;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) ' || query LOOP
        IF line ~ '(Ia3ReadAhead|Batches|Batched Rows)' THEN
            RETURN NEXT trim(regexp_replace(line, '\(.*', ''));
        END IF;
    END LOOP;
END $$;
SELECT gen_explain($$SELECT ia3_generate('gen', text), ia3_generate(text, 1 + i) FROM gen_rows$$);
SELECT gen_explain($$SELECT ia3_generate('gen', text, 4, 1.0) FROM gen_rows$$);
CREATE TABLE gen_batched AS
    SELECT i, text, ia3_generate('gen', text) AS a, ia3_generate(text, i) AS b,
           ia3_generate('gen', jsonb_build_object('text', text), 2) AS c FROM gen_rows;
SET ia3.enable_batching = off;
SELECT count(*), count(*) FILTER (WHERE a = ia3_generate('gen', text) AND b = ia3_generate(text, i)
                                  AND c = ia3_generate('gen', jsonb_build_object('text', text), 2)) AS equal FROM gen_batched;
RESET ia3.enable_batching;
-- an argument that is invalid for one row is an error only if the call for that row is made
SELECT count(a), min(length(a)) > 0 AS written FROM (SELECT ia3_generate('gen', text, 4 - i) AS a FROM gen_rows WHERE i < 4 OFFSET 0) x;
SELECT count(a) FROM (SELECT ia3_generate('gen', text, 4 - i) AS a FROM gen_rows OFFSET 0) x;

-- a cancelled query leaves nothing behind
SET statement_timeout = '300ms';
SELECT sum(length(ia3_generate('x', 1024, 50))) FROM generate_series(1, 10000);
RESET statement_timeout;
SELECT ia3_generate('gen', text) FROM gen_shots WHERE id = 1;

-- volatility, strictness and parallel safety of the functions
SELECT pronargs, provolatile, proisstrict, proparallel
  FROM pg_proc WHERE proname = 'ia3_generate' ORDER BY 1, 2;

-- NULL arguments give NULL, except for the seed
SELECT ia3_generate(NULL) IS NULL AS a, ia3_generate('gen', NULL::text) IS NULL AS b,
       ia3_generate('gen', 'x', NULL::int) IS NULL AS c, ia3_generate('gen', 'x', 8, NULL::float8) IS NULL AS d,
       ia3_generate('gen', 'x', 8, 1, NULL) IS NULL AS e, ia3_generate('gen', 'x', 8, 1, 0, NULL) IS NULL AS f;

-- control tokens in a text are text; an empty input is valid
SELECT ia3_generate('gen', '</s>') IS NOT NULL AS literal, ia3_generate('gen', '') IS NOT NULL AS empty;

-- errors
SELECT ia3_generate('nobody', 'x');
SELECT ia3_generate('gen@7', 'x');
SELECT ia3_generate('gen', 'x', 0);
SELECT ia3_generate('gen', 'x', 1025);
SELECT ia3_generate('x', -1);
SELECT ia3_generate('gen', 'x', 8, -0.5);
SELECT ia3_generate('gen', 'x', 8, 'NaN');
SELECT ia3_generate('gen', 'x', 8, 1, -1);
SELECT ia3_generate('gen_fields', 'x');
SELECT ia3_generate('gen_fields', '{"body": "x"}'::jsonb);
SELECT ia3_generate('gen', '[1]'::jsonb);

SELECT ia3_drop('gen'), ia3_drop('gen_fields');
DROP FUNCTION gen_explain;
DROP TABLE gen_shots, gen_rows, gen_batched;
