-- Sets of choices, and coverage curves, from the scores of rows that a version has not seen.
SET client_min_messages = warning;

CREATE TABLE sets_shots (id int, text text, label text);
INSERT INTO sets_shots VALUES
    (1, 'I was charged twice this month', 'billing'), (2, 'cannot log in any more', 'access'),
    (3, 'the invoice shows a wrong amount', 'billing'), (4, 'please reset my password', 'access'),
    (5, 'when do I get my refund', 'billing'), (6, 'my account is locked', 'access'),
    (7, 'the app closes when I open it', 'bug'), (8, 'the page stays blank', 'bug'),
    (9, 'the payment failed again', 'billing'), (10, 'the screen is black', 'bug'),
    (11, 'two factor code never arrives', 'access'), (12, 'saving shows an error', 'bug');
SELECT ia3_train('sets', 'SELECT text, label FROM sets_shots ORDER BY id', steps => 20, learning_rate => 0.01, seed => 7, calibrate => true);
CREATE TABLE sets_rows AS
    SELECT s.id * 100 + i AS id, s.text || ' number ' || i AS text, s.label FROM sets_shots s, generate_series(1, 3) i;

-- 1 - probability of the label of each row that the version is calibrated with
CREATE VIEW sets_scores AS
    SELECT s.task, s.version, s.row_number, s.label = best.choice AS hit, best.p AS probability, 1 - own.p AS score
      FROM ia3.adapter_scores s JOIN ia3.adapter a USING (task, version),
           LATERAL (SELECT choice, exp(score / a.temperature) / sum(exp(score / a.temperature)) OVER () AS p
                      FROM unnest(s.scores) WITH ORDINALITY x(score, choice) ORDER BY score DESC, choice LIMIT 1) best,
           LATERAL (SELECT * FROM (SELECT choice, exp(score / a.temperature) / sum(exp(score / a.temperature)) OVER () AS p
                      FROM unnest(s.scores) WITH ORDINALITY x(score, choice)) y WHERE choice = s.label) own;
-- what each form has to return, from ia3_classify and the quantile of these scores
CREATE FUNCTION sets_expected(input text, asked float8, own text[] DEFAULT NULL) RETURNS text[] LANGUAGE sql AS $$
    SELECT array_agg(choice ORDER BY rank)
      FROM (SELECT * FROM ia3_classify('sets', input) WHERE own IS NULL UNION ALL SELECT * FROM ia3_classify('sets', input, own) WHERE own IS NOT NULL) c
     WHERE rank = 1 OR 1 - probability <= (SELECT ia3.conformal_quantile(array_agg(score), asked) + 1e-12 FROM sets_scores WHERE (task, version) = ('sets', 1))
$$;
CREATE TABLE sets_known AS
    SELECT id, text, asked, sets_expected(text, asked) AS expected, sets_expected(text, asked, '{access,billing,"no idea"}') AS own
      FROM sets_rows, unnest('{0,0.3,0.5,0.7,0.9,1}'::float8[]) asked;
CREATE FUNCTION sets_wrong(call text, every int DEFAULT 1) RETURNS TABLE (rows bigint, wrong bigint, unequal boolean) LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE format($q$SELECT count(*), count(*) FILTER (WHERE answer IS DISTINCT FROM CASE WHEN %L ~ '\mown_choices\M' THEN own ELSE expected END),
        count(DISTINCT cardinality(answer)) > 1 FROM (SELECT *, %s AS answer FROM (SELECT *, '{access,billing,"no idea"}'::text[] AS own_choices FROM sets_known WHERE id %% %s = 0) k) s$q$, call, call, every);
END $$;
CREATE TABLE sets_calls (call text);
INSERT INTO sets_calls VALUES ($$ia3_predict_set('sets', text, coverage => asked)$$), ($$ia3_predict_set('sets', text, own_choices, asked)$$),
    ($$ia3_predict_set('sets@1', text, NULL, asked)$$), ($$ia3_predict_set('sets', jsonb_build_object('text', text), coverage => asked)$$),
    ($$ia3_predict_set('sets', json_build_object('text', text), choices => own_choices, coverage => asked)$$),
    ($$ia3_predict_set_fields('sets', jsonb_build_object('text', text), coverage => asked)$$),
    ($$ia3_predict_set_fields('sets', json_build_object('text', text), own_choices, asked)$$),
    ($$ia3_predict_set_fields('sets', json_build_object('text', text)::text, coverage => asked)$$);
SELECT call, w.* FROM sets_calls, sets_wrong(call) w;
SET ia3.enable_batching = off;
SELECT sum(rows), sum(wrong) FROM sets_calls, sets_wrong(call, 3);
RESET ia3.enable_batching;
-- never empty; larger sets contain smaller ones; of 12 scores none is large enough for 0.95, so there are all choices
SELECT bool_and(cardinality(ia3_predict_set('sets', text, coverage => 0)) = 1) AS one, bool_and((ia3_predict_set('sets', text, coverage => 0))[1] = ia3_predict('sets', text)) AS best,
       bool_and(ia3_predict_set('sets', text, coverage => 0.5) <@ ia3_predict_set('sets', text)) AS nested,
       bool_and(cardinality(ia3_predict_set('sets', text, coverage => 0.95)) = 3) AS all_choices,
       bool_and(ia3_predict_set('sets', text) = ia3_predict_set('sets', text, coverage => 0.9)) AS ninety FROM sets_rows;
-- rows are read ahead
EXPLAIN (COSTS OFF) SELECT ia3_predict_set('sets', text, coverage => 0.8) FROM sets_rows;
EXPLAIN (COSTS OFF) SELECT ia3_predict_set_fields('sets', to_jsonb(r)) FROM sets_rows r;
SELECT batches FROM ia3_stat_engine \gset
SELECT count(*), count(ia3_predict_set('sets', text, coverage => 0.8)) FROM sets_rows;
SELECT batches - :batches <= 3 AS batched FROM ia3_stat_engine;
-- in a parallel worker
SELECT count(set_config(name, 'on', false)) AS parallel FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
SELECT count(*), count(*) FILTER (WHERE ia3_predict_set('sets', text, coverage => asked) = expected) AS same FROM sets_known WHERE id % 3 = 0;
SELECT count(set_config(name, 'off', false)) AS parallel FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
-- NULL task and input; a NULL among rows
SELECT ia3_predict_set(NULL, 'text') IS NULL AS task, ia3_predict_set('sets', NULL::text) IS NULL AS input, ia3_predict_set('sets', NULL::jsonb) IS NULL AS fields,
       (SELECT count(ia3_predict_set('sets', nullif(text, text), coverage => 0.8)) FROM sets_rows) AS nulls;

-- another version has other scores, also within one statement and one transaction
SELECT ia3_train('sets', 'SELECT text, label FROM sets_shots ORDER BY id', steps => 1, seed => 8, calibrate => true, activate => false);
SELECT count(*) AS rows, count(*) FILTER (WHERE cardinality(a) <> cardinality(b)) > 0 AS differ, bool_and(a = k.expected) AS first
  FROM sets_known k, LATERAL (SELECT ia3_predict_set('sets@1', text, coverage => 0.5) AS a, ia3_predict_set('sets@2', text, coverage => 0.5) AS b) x WHERE asked = 0.5;
BEGIN;
SELECT cardinality(ia3_predict_set('sets', 'the app is slow', coverage => 0.5)) < 3 AS fewer;
UPDATE ia3.adapter_scores SET scores = (SELECT array_agg(CASE WHEN i = label THEN -50 ELSE 0 END) FROM generate_series(1, 3) i) WHERE task = 'sets' AND version = 1;
SELECT cardinality(ia3_predict_set('sets', 'the app is slow', coverage => 0.5)) AS all_choices;
DELETE FROM ia3.adapter_scores WHERE task = 'sets' AND version = 1;
SELECT ia3_predict_set('sets', 'the app is slow', coverage => 0.5);
ROLLBACK;
SELECT cardinality(ia3_predict_set('sets', 'the app is slow', coverage => 0.5)) < 3 AS fewer;

-- 200 draws of rows whose labels have the probabilities that the version gives them: 20 rows are what it is calibrated with, and a set of the
-- others contains the label as often as asked, or at most 1 / 21 too often
CREATE TABLE sets_drawn AS
    SELECT r.id, r.text, array_agg(c.choice ORDER BY k.i) AS choices, array_agg(c.score ORDER BY k.i) AS scores, array_agg(c.probability ORDER BY k.i) AS p
      FROM sets_rows r, ia3_classify('sets', r.text) c JOIN unnest('{billing,access,bug}'::text[]) WITH ORDINALITY k(choice, i) USING (choice) GROUP BY 1, 2;
CREATE TABLE sets_covered (covered float8, size float8);
SELECT setseed(0.5);
BEGIN;
DO $$
BEGIN
    FOR draw IN 1 .. 200 LOOP
        CREATE TEMP TABLE one ON COMMIT DROP AS
            SELECT *, row_number() OVER (ORDER BY key) AS k FROM (SELECT d.*, CASE WHEN u < p[1] THEN 1 WHEN u < p[1] + p[2] THEN 2 ELSE 3 END AS label
              FROM (SELECT *, random() AS u, random() AS key FROM sets_drawn) d) x;
        DELETE FROM ia3.adapter_scores WHERE task = 'sets' AND version = 1;
        INSERT INTO ia3.adapter_scores (task, version, row_number, fold, label, scores) SELECT 'sets', 1, k, 1, label, scores FROM one WHERE k <= 20;
        INSERT INTO sets_covered SELECT avg((choices[label] = ANY (s))::int), avg(cardinality(s))
          FROM (SELECT choices, label, ia3_predict_set('sets', text, coverage => 0.8) AS s FROM one WHERE k > 20 LIMIT 10) x;
        DROP TABLE one;
    END LOOP;
END $$;
SELECT count(*) AS draws, avg(covered) >= 0.78 AS enough, avg(covered) <= 0.8 + 1.0 / 21 + 0.02 AS not_too_much, avg(size) BETWEEN 1 AND 2.9 AS small FROM sets_covered;
ROLLBACK;

-- the coverage curve of these rows
SELECT count(*) AS thresholds, bool_and(abs(c.threshold - e.probability) < 1e-12) AS same, bool_and(c.answered = e.answered AND abs(c.accuracy - e.accuracy) < 1e-12) AS answered
  FROM (SELECT *, row_number() OVER (ORDER BY threshold DESC) AS k FROM ia3_coverage_curve('sets')) c
  JOIN (SELECT probability, count(*) OVER w AS answered, avg(hit::int) OVER w AS accuracy, row_number() OVER w AS k FROM sets_scores WHERE (task, version) = ('sets', 1)
        WINDOW w AS (ORDER BY probability DESC)) e USING (k);
SELECT max(answered) FROM ia3_coverage_curve('sets@2');

-- errors
SELECT ia3_train('sets_plain', 'SELECT text, label FROM sets_shots', steps => 1, seed => 1);
SELECT ia3_predict_set('sets_plain', 'text');
SELECT ia3_predict_set('sets_plain', text) FROM sets_rows;
SELECT ia3_coverage_curve('sets_plain');
SELECT ia3_predict_set('nobody', 'text');
SELECT ia3_predict_set('sets@9', 'text');
SELECT ia3_coverage_curve('nobody');
SELECT ia3_coverage_curve(NULL);
SELECT ia3_predict_set('sets', 'text', coverage => NULL);
SELECT ia3_predict_set('sets', 'text', coverage => -0.1);
SELECT ia3_predict_set('sets', 'text', coverage => 1.1);
SELECT ia3_predict_set('sets', 'text', coverage => 'NaN');
SELECT ia3_predict_set('sets', 'text', '{}');
SELECT ia3_predict_set('sets', 'text', '{same,same}');
SELECT ia3_predict_set('sets', '{"text": "x"}');
SELECT ia3_predict_set_fields('sets', 'no json');
-- readers may have sets, but not the scores, nor the curve of them
CREATE ROLE regress_ia3_setter;
SELECT ia3_grant('sets', 'regress_ia3_setter');
SET ROLE regress_ia3_setter;
SELECT cardinality(ia3_predict_set('sets', 'the app is slow', coverage => 0.5)) < 3 AS fewer;
SELECT count(*) FROM ia3.adapter_scores;
SELECT ia3_coverage_curve('sets');
SELECT ia3_predict_set('sets_plain', 'text');
RESET ROLE;
SELECT ia3_revoke('sets', 'regress_ia3_setter');
SET ROLE regress_ia3_setter;
SELECT ia3_predict_set('sets', 'the app is slow', coverage => 0.5);
RESET ROLE;
DROP ROLE regress_ia3_setter;

SELECT ia3_drop(task) FROM ia3.task WHERE task LIKE 'sets%';
DROP FUNCTION sets_expected, sets_wrong;
DROP TABLE sets_shots, sets_rows, sets_known, sets_calls, sets_drawn, sets_covered CASCADE;
DROP VIEW sets_scores;
