-- Predictions that are NULL below a probability: the argument min_probability, the task's default, and what counts as answered.
DELETE FROM ia3.given_version g WHERE NOT EXISTS (SELECT FROM ia3.adapter a WHERE a.task = g.task); -- other tests use the same names
SET client_min_messages = warning;

CREATE TABLE abstain_shots (id int, text text, label text);
INSERT INTO abstain_shots VALUES
    (1, 'I was charged twice this month', 'billing'), (2, 'cannot log in any more', 'access'),
    (3, 'the invoice shows a wrong amount', 'billing'), (4, 'please reset my password', 'access'),
    (5, 'when do I get my refund', 'billing'), (6, 'my account is locked', 'access');
SELECT ia3_train('unsure', 'SELECT text, label FROM abstain_shots ORDER BY id', steps => 20, learning_rate => 0.01, seed => 7);
CREATE TABLE abstain_rows AS
    SELECT s.id * 100 + i AS id, s.text || ' number ' || i AS text, CASE WHEN i % 5 = 0 THEN 'access' ELSE s.label END AS label
      FROM abstain_shots s, generate_series(1, 20) i;
INSERT INTO abstain_rows VALUES (1000, NULL, 'access');
-- what each form has to return, from ia3_classify
CREATE TABLE abstain_best AS
    SELECT r.id, r.text, r.label, c.choice, c.probability, d.choice AS own_choice, d.probability AS own_probability
      FROM abstain_rows r LEFT JOIN LATERAL ia3_classify('unsure', r.text) c ON c.rank = 1
      LEFT JOIN LATERAL ia3_classify('unsure', r.text, '{access,billing,"no idea"}') d ON d.rank = 1;
CREATE VIEW abstain_middle AS
    SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY probability) AS p, percentile_disc(0.5) WITHIN GROUP (ORDER BY own_probability) AS own
      FROM abstain_best;
SELECT count(*), count(DISTINCT probability) > 20 AS spread, min(probability) >= 0.5 AS half, max(probability) < 1 AS one FROM abstain_best WHERE text IS NOT NULL;

-- which answers of a call differ from what they should be; t is the threshold, c the choices
CREATE FUNCTION wrong(call text) RETURNS TABLE (rows bigint, answers bigint, wrong bigint) LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE format($q$
        SELECT count(*), count(answer), count(*) FILTER (WHERE answer IS DISTINCT FROM expected)
          FROM (SELECT %s AS answer, CASE WHEN has_choices AND own_probability >= t THEN own_choice
                                          WHEN NOT has_choices AND probability >= t THEN choice END AS expected
                  FROM abstain_best b, (SELECT CASE WHEN %L ~ '\mc\M' THEN own ELSE p END AS t, %L ~ '\mc\M' AS has_choices,
                                               '{access,billing,"no idea"}'::text[] AS c FROM abstain_middle OFFSET 0) m) s $q$, call, call, call);
END $$;
CREATE TABLE abstain_calls (call text);
INSERT INTO abstain_calls VALUES
    ($$ia3_predict('unsure', text, min_probability => t)$$), ($$ia3_predict('unsure', text, c, t)$$),
    ($$ia3_predict('unsure', text, NULL, t)$$), ($$ia3_predict('unsure@1', text, choices => c, min_probability => t)$$),
    ($$ia3_predict('unsure', jsonb_build_object('text', text), min_probability => t)$$),
    ($$ia3_predict('unsure', json_build_object('text', text), c, t)$$),
    ($$ia3_predict_fields('unsure', jsonb_build_object('text', text), c, t)$$),
    ($$ia3_predict_fields('unsure', json_build_object('text', text), min_probability => t)$$),
    ($$ia3_predict_fields('unsure', json_build_object('text', text)::text, min_probability => t)$$),
    ($$ia3_predict_window('unsure', text, min_probability => t) OVER ()$$), ($$ia3_predict_window('unsure', text, c, t) OVER ()$$),
    ($$ia3_predict_window('unsure', jsonb_build_object('text', text), min_probability => t) OVER ()$$),
    ($$ia3_predict_window('unsure', json_build_object('text', text), c, t) OVER ()$$),
    ($$ia3_predict_window_fields('unsure', jsonb_build_object('text', text), c, t) OVER ()$$),
    ($$ia3_predict_window_fields('unsure', json_build_object('text', text), min_probability => t) OVER ()$$),
    ($$ia3_predict_window_fields('unsure', json_build_object('text', text)::text, c, t) OVER ()$$);
DELETE FROM abstain_best WHERE text IS NULL;
SELECT call, wrong.* FROM abstain_calls, wrong(call);
SET ia3.enable_batching = off;
SELECT sum(rows), sum(wrong) FROM abstain_calls, wrong(call);
RESET ia3.enable_batching;
INSERT INTO abstain_best VALUES (1000, NULL);

-- the rows are predicted in batches, and once for all thresholds, and for ia3_classify
CREATE FUNCTION asked(query text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE before bigint; after bigint;
BEGIN
    SELECT rows INTO before FROM ia3_stat_engine;
    EXECUTE query;
    SELECT rows INTO after FROM ia3_stat_engine;
    RETURN after - before;
END $$;
SELECT asked($$CREATE TEMP TABLE a AS SELECT ia3_predict('unsure', text, min_probability => 0.6) AS a, ia3_predict('unsure', text) AS b,
    ia3_predict('unsure', text, NULL, id / 1000.0) AS c, (SELECT choice FROM ia3_classify('unsure', r.text) WHERE rank = 1) FROM abstain_rows r$$);
SELECT asked($$CREATE TEMP TABLE b AS SELECT ia3_predict('unsure', 'constant', min_probability => id / 1000.0) FROM abstain_rows r$$);
CREATE FUNCTION readahead(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE line text;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) ' || query LOOP
        IF line ~ '(Batched Calls|Batches|Batched Rows|Largest Batch): ' THEN
            RETURN NEXT trim(line);
        END IF;
    END LOOP;
END $$;
SELECT readahead($$SELECT ia3_predict('unsure', text, min_probability => 0.6) FROM abstain_rows$$);
SELECT readahead($$SELECT ia3_predict_fields('unsure', to_jsonb(r), NULL, id / 1000.0) FROM abstain_rows r WHERE text IS NOT NULL$$);
SELECT readahead($$SELECT id FROM abstain_rows WHERE ia3_predict('unsure', text, CASE WHEN id < 300 THEN '{access,billing}'::text[] END, 0.6) IS NULL$$);
SELECT readahead($$SELECT id, ia3_predict('unsure', text, min_probability => 0.6) FROM abstain_rows LIMIT 3$$);
-- not those whose threshold cannot be computed in advance
SELECT readahead($$SELECT ia3_predict('unsure', text, min_probability => random() / 2) FROM abstain_rows LIMIT 3$$);

-- the task's default, in all forms of ia3_predict without a threshold of their own; ia3_classify never abstains
UPDATE ia3.task SET min_probability = (SELECT p FROM abstain_middle) WHERE task = 'unsure';
CREATE TABLE abstain_forms AS
    SELECT form, answer, CASE WHEN probability >= p THEN choice END AS expected
      FROM (SELECT probability, choice, p, ia3_predict('unsure', text) AS a, ia3_predict('unsure@1', text) AS b,
                   ia3_predict('unsure', text, min_probability => NULL) AS c, ia3_predict_window('unsure', text) OVER () AS d,
                   ia3_predict_window('unsure', text, NULL, NULL) OVER () AS e, ia3_predict_fields('unsure', to_jsonb(b)) AS f
              FROM abstain_best b, abstain_middle WHERE text IS NOT NULL) s,
           LATERAL (VALUES ('text', a), ('version', b), ('null', c), ('window', d), ('window null', e), ('fields', f)) v(form, answer);
SELECT form, count(*) AS rows, count(answer) AS answers, count(*) FILTER (WHERE answer IS DISTINCT FROM expected) AS wrong
  FROM abstain_forms GROUP BY form ORDER BY form;
SET ia3.enable_batching = off;
SELECT count(*) FILTER (WHERE ia3_predict('unsure', text) IS DISTINCT FROM CASE WHEN probability >= p THEN choice END) AS wrong
  FROM abstain_best, abstain_middle;
RESET ia3.enable_batching;
SELECT count(ia3_predict('unsure', text, min_probability => 0)) AS zero, count(ia3_predict('unsure', text, min_probability => 1)) AS one,
       count(ia3_predict('unsure', text, '{only}', 1)) AS single, count(ia3_predict('unsure', text, '{access,billing,"no idea"}')) < 120 AS own_choices,
       count(c.choice) AS classify
  FROM abstain_rows r LEFT JOIN LATERAL ia3_classify('unsure', r.text) c ON c.rank = 1;
SELECT ia3_zero_shot('text', '{a,b}') IS NOT NULL AS zero_shot;

-- evaluation
SELECT e.n, e.answered, e.answered = (SELECT count(*) FILTER (WHERE probability >= p) FROM abstain_best, abstain_middle) AS as_predicted,
       abs(e.accuracy_answered - (SELECT avg((choice = label)::int) FROM abstain_best, abstain_middle WHERE probability >= p)) < 1e-9 AS accuracy_answered,
       abs(e.accuracy - (SELECT avg((choice = label)::int) FROM abstain_best)) < 1e-9 AS accuracy
  FROM ia3_evaluate('unsure', 'SELECT text, label FROM abstain_rows WHERE text IS NOT NULL') e;
SELECT t, n, answered, accuracy_answered = accuracy AS same
  FROM (VALUES (0::float8), (1), (NULL)) v(t), ia3_evaluate('unsure', 'SELECT text, label FROM abstain_rows WHERE text IS NOT NULL', t)
 WHERE t IS NOT NULL;
SELECT n, answered, accuracy_answered FROM ia3_evaluate('unsure', 'SELECT text, label FROM abstain_rows WHERE text IS NOT NULL', min_probability => 1);
SELECT sum(n) FROM ia3_confusion('unsure', 'SELECT text, label FROM abstain_rows WHERE text IS NOT NULL');

-- the curve has all thresholds that make a difference
SELECT count(*) = (SELECT count(DISTINCT probability) FROM abstain_best) AS thresholds,
       bool_and(answered = (SELECT count(*) FROM abstain_best WHERE probability >= threshold)) AS answered,
       bool_and(abs(accuracy - (SELECT avg((choice = label)::int) FROM abstain_best WHERE probability >= threshold)) < 1e-9) AS accuracy
  FROM ia3_coverage_curve('unsure', 'SELECT text, label FROM abstain_rows WHERE text IS NOT NULL');
SELECT bool_and(e.answered = c.answered AND abs(e.accuracy_answered - c.accuracy) < 1e-9) AS as_evaluated, count(*)
  FROM (SELECT * FROM ia3_coverage_curve('unsure', 'SELECT text, label FROM abstain_rows WHERE text IS NOT NULL') ORDER BY answered LIMIT 5 OFFSET 20) c,
       ia3_evaluate('unsure', 'SELECT text, label FROM abstain_rows WHERE text IS NOT NULL', c.threshold) e;
-- equal probabilities are one threshold
SELECT * FROM ia3_coverage_curve('unsure', $$SELECT 'x' AS text, CASE i WHEN 4 THEN 'two' ELSE 'one' END AS label,
    CASE i WHEN 4 THEN '{two}' ELSE '{one}' END::text[] AS choices FROM generate_series(1, 4) i$$);
SELECT count(*), bool_and(answered = 4 AND accuracy IN (0.25, 0.75)) FROM ia3_coverage_curve('unsure',
    $$SELECT 'x' AS text, CASE i WHEN 4 THEN 'access' ELSE 'billing' END AS label FROM generate_series(1, 4) i$$);
SELECT count(*) FROM ia3_coverage_curve(NULL, 'SELECT 1');
SELECT ia3_coverage_curve('unsure', 'SELECT text, label FROM abstain_rows WHERE false');
SELECT ia3_coverage_curve('unsure', 'SELECT label FROM abstain_rows');
SELECT ia3_coverage_curve('unsure', $$SELECT 'x', 'other'$$);
SELECT ia3_coverage_curve('unsure@2', 'SELECT text, label FROM abstain_rows');
SELECT ia3_coverage_curve('nobody', 'SELECT text, label FROM abstain_rows');

-- copies have the default; so has what is exported and imported, and it is checked
SELECT ia3_copy('unsure', 'copy'), ia3_rename('copy', 'renamed');
SELECT ia3_import_task(ia3_export_task('renamed'), 'imported');
SELECT task, min_probability = (SELECT p FROM abstain_middle) AS same FROM ia3.task ORDER BY task;
UPDATE ia3.task SET min_probability = NULL WHERE task <> 'unsure';
SELECT count(ia3_predict('renamed', text)) FROM abstain_rows;
SELECT ia3_import_task(ia3_export_task('renamed') - 'min_probability', 'without');
SELECT min_probability IS NULL FROM ia3.task WHERE task = 'without';
SELECT ia3_import_task(jsonb_set(ia3_export_task('renamed'), '{min_probability}', '1.5'), 'bad');
SELECT ia3_import_task(jsonb_set(ia3_export_task('renamed'), '{min_probability}', '"NaN"'), 'bad');
SELECT ia3_import_task(jsonb_set(ia3_export_task('renamed'), '{min_probability}', '"x"'), 'bad');

-- NULL arguments, and thresholds that are none
SELECT ia3_predict(NULL, 'x', min_probability => 0.5) IS NULL AS task, ia3_predict('unsure', NULL::text, min_probability => 0.5) IS NULL AS text,
       ia3_predict_fields('unsure', NULL::jsonb, NULL, 0.5) IS NULL AS fields,
       ia3_evaluate(NULL, 'SELECT 1', 0.5) IS NULL AS no_task, ia3_evaluate('unsure', NULL, 0.5) IS NULL AS no_query;
\set VERBOSITY terse
UPDATE ia3.task SET min_probability = 1.01 WHERE task = 'unsure';
UPDATE ia3.task SET min_probability = -0.5 WHERE task = 'unsure';
UPDATE ia3.task SET min_probability = 'NaN' WHERE task = 'unsure';
\set VERBOSITY default
SELECT ia3_predict('unsure', 'x', min_probability => 1.01);
SELECT ia3_predict('unsure', 'x', min_probability => -1);
SELECT ia3_predict('unsure', 'x', min_probability => 'NaN');
SELECT ia3_predict_fields('unsure', '{"text": "x"}', NULL, -0.001);
SELECT ia3_predict_window('unsure', 'x', NULL, 2) OVER ();
SELECT ia3_evaluate('unsure', 'SELECT text, label FROM abstain_rows', -1);
SELECT ia3_predict('unsure', 'x', '{}', 0.5);
SELECT ia3_predict('nobody', 'x', NULL, 0.5);
SELECT ia3_predict('unsure@2', 'x', NULL, 0.5);
SELECT ia3_predict('unsure', '{"body": "x"}'::jsonb, NULL, 0.5);

-- only the owner sets the default, which holds for readers, too
CREATE ROLE regress_ia3_reader;
SELECT ia3_grant('unsure', 'regress_ia3_reader');
GRANT SELECT ON abstain_rows TO regress_ia3_reader;
SET ROLE regress_ia3_reader;
UPDATE ia3.task SET min_probability = NULL WHERE task = 'unsure' RETURNING task;
SELECT count(ia3_predict('unsure', text)) BETWEEN 1 AND 119 AS default, count(ia3_predict('unsure', text, min_probability => 0)) AS own FROM abstain_rows;
SELECT ia3_predict('renamed', 'x', min_probability => 0);
RESET ROLE;
DROP OWNED BY regress_ia3_reader;
DROP ROLE regress_ia3_reader;

SELECT ia3_drop(task) FROM ia3.task;
DROP FUNCTION wrong, asked, readahead;
DROP VIEW abstain_middle;
DROP TABLE abstain_shots, abstain_rows, abstain_best, abstain_calls, abstain_forms;
