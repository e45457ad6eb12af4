-- Cross-validation: folds, and the same runs one by one.
-- Steps are reported by NOTICEs, depending on the time; notices are shown where they matter.
SET client_min_messages = warning;

CREATE TABLE cross_shots (id int PRIMARY KEY, text text, label text, person text);
INSERT INTO cross_shots VALUES
    (1, 'I was charged twice this month', 'billing', 'ann'), (2, 'cannot log in any more', 'access', 'bob'),
    (3, 'the invoice shows a wrong amount', 'billing', 'ann'), (4, 'please reset my password', 'access', 'cyd'),
    (5, 'when do I get my refund', 'billing', 'dan'), (6, 'my account is locked', 'access', 'bob'),
    (7, 'the app closes when I open it', 'bug', 'eve'), (8, 'the page stays blank', 'bug', 'ann'),
    (9, 'the payment failed again', 'billing', 'fay'), (10, 'the screen is black', 'bug', 'gus'),
    (11, 'two factor code never arrives', 'access', 'fay');
-- a query, and what its rows are: the same order everywhere
CREATE VIEW cross_rows AS SELECT text, label, id, person FROM cross_shots ORDER BY id DESC;

CREATE TABLE cross_out AS SELECT * FROM ia3_cross_predict('TABLE cross_rows', folds => 3, repeats => 2, id_column => 'id',
    steps => 12, learning_rate => 0.01, seed => 41);
SELECT repeat, fold, count(*), string_agg(DISTINCT label, ' ' ORDER BY label) AS labels FROM cross_out GROUP BY 1, 2 ORDER BY 1, 2;
-- numbers and ids are those of the query's rows, and labels theirs
SELECT count(*), bool_and(row_id = (12 - row_number)::text) AS ids, bool_and(o.label = s.label) AS labels,
       count(DISTINCT (repeat, row_number)) AS distinct_rows
  FROM cross_out o JOIN cross_shots s ON s.id = row_id::int;
-- sizes differ by at most one, and so do the numbers of each label
SELECT repeat, max(n) - min(n) <= 1 AS sizes FROM (SELECT repeat, fold, count(*) AS n FROM cross_out GROUP BY 1, 2) x GROUP BY 1 ORDER BY 1;
SELECT repeat, label, max(n) - min(n) <= 1 AS balanced
  FROM (SELECT r AS repeat, f AS fold, l AS label, (SELECT count(*) FROM cross_out o WHERE (o.repeat, o.fold, o.label) = (r, f, l)) AS n
          FROM generate_series(1, 2) r, generate_series(1, 3) f, unnest('{access,billing,bug}'::text[]) l) x
 GROUP BY 1, 2 ORDER BY 1, 2;
SELECT count(*) > 0 AS repeats_differ FROM cross_out a JOIN cross_out b USING (row_number) WHERE a.repeat = 1 AND b.repeat = 2 AND a.fold <> b.fold;
-- probabilities are one distribution over the choices
SELECT bool_and(abs(s - 1) < 1e-9) AS sums, bool_and(m = probability) AS best, bool_and((probabilities ->> predicted)::float8 = probability) AS predicted
  FROM cross_out, LATERAL (SELECT sum(value::float8) AS s, max(value::float8) AS m FROM jsonb_each_text(probabilities)) p;

-- each fold has the bytes, and so the predictions, of a training run on these rows with seed + 32 * ((repeat - 1) * folds + fold - 1)
CREATE FUNCTION cross_check(options text, out_table text, folds int, seed bigint, choices text[] DEFAULT '{access,bug,billing}') RETURNS TABLE (same bigint, n bigint)
LANGUAGE plpgsql AS $$
DECLARE r record; same_rows bigint; rows bigint;
BEGIN
    same := 0; n := 0;
    FOR r IN EXECUTE format('SELECT DISTINCT repeat, fold FROM %I ORDER BY 1, 2', out_table) LOOP
        EXECUTE format($q$SELECT ia3_train('cross_one', $s$SELECT text, label FROM cross_rows WHERE id::text IN
                (SELECT row_id FROM %I WHERE repeat = %s AND fold <> %s)$s$, choices => $1, seed => $2, %s)$q$,
            out_table, r.repeat, r.fold, options) USING choices, seed + 32 * ((r.repeat - 1) * folds + r.fold - 1);
        EXECUTE format($q$SELECT count(*) FILTER (WHERE o.probabilities = (SELECT jsonb_object_agg(choice, probability) FROM ia3_classify('cross_one', s.text))
                AND o.predicted = ia3_predict('cross_one', s.text)), count(*)
            FROM %I o JOIN cross_shots s ON s.id = o.row_id::int WHERE o.repeat = %s AND o.fold = %s$q$, out_table, r.repeat, r.fold)
            INTO same_rows, rows;
        same := same + same_rows; n := n + rows;
    END LOOP;
    RETURN NEXT;
END $$;
-- (the engine has the adapters of the folds in its cache, so it would miss those that differ in a bit)
SELECT cache_misses AS misses FROM ia3_stat_engine \gset
SELECT * FROM cross_check('steps => 12, learning_rate => 0.01', 'cross_out', 3, 41);
SELECT cache_misses - :misses AS differing_adapters FROM ia3_stat_engine;

-- groups stay together
CREATE TABLE cross_groups AS SELECT * FROM ia3_cross_predict('TABLE cross_rows', folds => 4, group_column => 'person', id_column => 'id', steps => 2, seed => 2);
SELECT max(n) AS folds_per_person, count(*) AS people FROM (SELECT person, count(DISTINCT fold) AS n FROM cross_groups JOIN cross_shots ON id = row_id::int GROUP BY 1) x;
SELECT fold, count(*) AS rows FROM cross_groups GROUP BY 1 ORDER BY 1;

-- other methods, options and templates; ensembles, whose members have seeds of their own
CREATE TABLE cross_lora AS SELECT * FROM ia3_cross_predict('TABLE cross_rows', folds => 2, id_column => 'id', template => ARRAY['{text} What is it?', 'Topic: {text}'],
    choices => '{access,bug,billing}', method => 'lora', rank => 2, steps => 6, dropout => 0.1, loss_averaging => 'example', seed => -7);
SELECT * FROM cross_check($$template => ARRAY['{text} What is it?', 'Topic: {text}'], method => 'lora', rank => 2, steps => 6, dropout => 0.1, loss_averaging => 'example'$$, 'cross_lora', 2, -7);
SELECT ia3_train('cross_start', 'TABLE cross_rows', steps => 3, seed => 1);
CREATE TABLE cross_init AS SELECT * FROM ia3_cross_predict('TABLE cross_rows', folds => 2, id_column => 'id', init => 'cross_start', ensemble => 2, steps => 4,
    optimizer => 'adamw', weight_decay => 0.1, ema => 0.9, seed => 5);
SELECT * FROM cross_check($$init => 'cross_start', ensemble => 2, steps => 4, optimizer => 'adamw', weight_decay => 0.1, ema => 0.9$$, 'cross_init', 2, 5);

-- rows with choices of their own; a row number is what there is without id_column
SELECT row_number, row_id, label, predicted IN ('x ' || row_number, 'y') AS own
  FROM ia3_cross_predict($$SELECT 'text ' || i AS text, 'y' AS label, ARRAY['x ' || i, 'y'] AS choices FROM generate_series(1, 4) i$$, folds => 2, steps => 1, seed => 1);

-- a label that occurs once
SET client_min_messages = notice;
SELECT count(*), count(*) FILTER (WHERE probabilities ? 'fraud') AS all_choices
  FROM ia3_cross_predict($$SELECT text, label FROM cross_rows UNION ALL SELECT 'somebody used my card', 'fraud'$$, folds => 2, steps => 1, seed => 1);
SELECT count(*) FROM ia3_cross_predict($$SELECT 'text ' || i AS text, 'label ' || i AS label FROM generate_series(1, 7) i$$, folds => 7, steps => 1, seed => 1);
SET client_min_messages = warning;
-- without a seed one is drawn
SELECT count(*) FROM ia3_cross_predict('TABLE cross_rows', folds => 2, steps => 1);

-- nothing is stored
SELECT task, count(*) FROM ia3.adapter WHERE task LIKE 'cross%' GROUP BY 1 ORDER BY 1;
BEGIN READ ONLY;
SELECT count(*) FROM ia3_cross_predict('TABLE cross_rows', folds => 2, steps => 1, seed => 1);
COMMIT;

-- errors
SELECT ia3_cross_predict(NULL);
SELECT ia3_cross_predict('TABLE cross_rows', folds => NULL);
SELECT ia3_cross_predict('TABLE cross_rows', repeats => NULL);
SELECT ia3_cross_predict('TABLE cross_rows', folds => 1);
SELECT ia3_cross_predict('TABLE cross_rows', folds => 101);
SELECT ia3_cross_predict('TABLE cross_rows', repeats => 0);
SELECT ia3_cross_predict('TABLE cross_rows', folds => 12);
SELECT ia3_cross_predict('TABLE cross_rows', folds => 8, group_column => 'person');
SELECT ia3_cross_predict('TABLE cross_rows', group_column => 'nobody');
SELECT ia3_cross_predict('TABLE cross_rows', id_column => 'nobody');
SELECT ia3_cross_predict($$SELECT text, label, nullif(person, 'bob') AS person FROM cross_rows$$, group_column => 'person');
SELECT ia3_cross_predict('SELECT text, label, ARRAY[id] AS id FROM cross_rows', id_column => 'id');
SELECT ia3_cross_predict('SELECT text, label FROM cross_rows WHERE false');
SELECT ia3_cross_predict($$SELECT text, 'same' AS label FROM cross_rows$$, folds => 2);
SELECT ia3_cross_predict('SELECT text FROM cross_rows');
SELECT ia3_cross_predict('DELETE FROM cross_shots RETURNING text, label');
SELECT ia3_cross_predict('TABLE cross_rows', folds => 2, choices => '{bug,access}', steps => 1, seed => 1);
SELECT ia3_cross_predict('TABLE cross_rows', backbone => 'nowhere');
SELECT ia3_cross_predict('TABLE cross_rows', init => 'nobody');
SELECT ia3_cross_predict('TABLE cross_rows', steps => 0);
SELECT ia3_cross_predict('TABLE cross_rows', method => 'nothing');
-- inputs that are too long
SET ia3.max_input_tokens = 16;
SET client_min_messages = notice;
SELECT count(*) FROM ia3_cross_predict($$SELECT repeat(text || ' ', 5) AS text, label FROM cross_rows$$, folds => 2, steps => 1, seed => 1);
SET client_min_messages = warning;
SELECT ia3_cross_predict('TABLE cross_rows', folds => 2, template => ARRAY['{text}' || repeat(' what is it about', 10)], steps => 1, seed => 1);
RESET ia3.max_input_tokens;
-- cancellation leaves nothing
SET statement_timeout = '300ms';
SELECT ia3_cross_predict('TABLE cross_rows', folds => 2, steps => 100000, seed => 1);
RESET statement_timeout;
SELECT count(*) FROM ia3_stat_progress_train;

-- training needs a grant, and so does this; the query runs as the caller
CREATE ROLE regress_ia3_crosser;
SET ROLE regress_ia3_crosser;
SELECT ia3_cross_predict('TABLE cross_rows');
RESET ROLE;
GRANT EXECUTE ON FUNCTION ia3_cross_predict TO regress_ia3_crosser;
SET ROLE regress_ia3_crosser;
SELECT ia3_cross_predict('TABLE cross_rows', folds => 2);
SELECT ia3_cross_predict($$SELECT 'a' AS text, 'b' AS label$$, init => 'cross_start');
RESET ROLE;
DROP OWNED BY regress_ia3_crosser;
DROP ROLE regress_ia3_crosser;

-- the options of training are the same, in the same order, in all functions that train
CREATE FUNCTION cross_options(function regproc) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(format('%s %s %s', n, format_type(t, NULL), d), ', ' ORDER BY i)
      FROM pg_proc p, LATERAL (SELECT n, t, i, pg_get_function_arg_default(p.oid, i::int) AS d
                                 FROM unnest(p.proargnames, coalesce(p.proallargtypes, p.proargtypes::oid[]), p.proargmodes) WITH ORDINALITY x(n, t, m, i)
                                WHERE coalesce(m, 'i') = 'i') a
     WHERE p.oid = function AND i >= array_position(p.proargnames, 'template') AND n NOT IN ('activate', 'calibrate')
$$;
SELECT cross_options('ia3_train') LIKE 'template text[] NULL::text[], choices %' AS options, f, cross_options(f) = cross_options('ia3_train') AS same
  FROM unnest('{ia3_train_task,ia3_cross_predict,ia3_cross_validate,ia3_learning_curve}'::regproc[]) f;
-- they begin with template
SELECT f, array_position(proargnames, 'template') AS template FROM pg_proc JOIN unnest('{ia3_train,ia3_train_task,ia3_cross_predict,ia3_cross_validate,ia3_learning_curve}'::regproc[]) f ON oid = f ORDER BY 1;

SELECT ia3_drop(task) FROM ia3.task WHERE task IN ('cross_one', 'cross_start');
DROP FUNCTION cross_check, cross_options;
DROP TABLE cross_shots, cross_out, cross_groups, cross_lora, cross_init CASCADE;
