-- Variants of the optimizer: AdamW, and the exponential moving average of the vectors.
DELETE FROM ia3.given_version g WHERE NOT EXISTS (SELECT FROM ia3.adapter a WHERE a.task = g.task); -- other tests use the same names
SET client_min_messages = warning;
CREATE FUNCTION attempt(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    message text;
    detail text;
    hint text;
BEGIN
    EXECUTE command;
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(' | ', SQLSTATE || ' ' || message, nullif(detail, ''), nullif(hint, ''));
END $$;
CREATE TABLE shots (id int, text text, label text);
INSERT INTO shots VALUES
    (1, 'I was charged twice this month', 'billing'), (2, 'cannot log in any more', 'access'),
    (3, 'the invoice shows a wrong amount', 'billing'), (4, 'please reset my password', 'access'),
    (5, 'when do I get my refund', 'billing'), (6, 'my account is locked', 'access');
CREATE FUNCTION train(options text, task text DEFAULT 't') RETURNS text LANGUAGE sql AS $$
    SELECT attempt(format('SELECT ia3_train(%L, ''SELECT text, label FROM shots ORDER BY id'', steps => 30, dropout => 0, seed => 7, %s)', task, options))
$$;
-- each trains, is recorded, and differs from the others; the same seed gives the same bits
SELECT o, train(o) FROM unnest(ARRAY['learning_rate => 0.02', $$optimizer => 'adamw', learning_rate => 0.02$$, $$optimizer => 'adamw'$$,
    $$optimizer => 'adamw', learning_rate => 0.02, weight_decay => 0.1$$, 'learning_rate => 0.02, ema => 0.9',
    $$method => 'lora', optimizer => 'adamw', learning_rate => 0.01, ema => 0.5$$, $$optimizer => 'adamw', learning_rate => 0.02$$,
    $$optimizer => 'adafactor', learning_rate => 0.02, ema => 0, weight_decay => 0$$]) o;
SELECT version, recipe -> 'optimizer' AS optimizer, recipe -> 'learning_rate' AS rate, recipe -> 'weight_decay' AS decay, recipe -> 'ema' AS ema,
       (metrics -> 'loss_curve' ->> 0)::float8 - (metrics ->> 'loss')::float8 > 0.02 AS fell, first_value(version) OVER (PARTITION BY digest ORDER BY version) AS same_as
  FROM ia3.adapter ORDER BY version;
-- with ensembles
SELECT train($$optimizer => 'adamw', learning_rate => 0.02, ema => 0.5, ensemble => 2$$, 'e'), train($$optimizer => 'adamw', learning_rate => 0.02, ema => 0.5$$, 'e');
SELECT position(substr(b.vectors, octet_length(b.vectors) - 10000) IN a.vectors) > 0 AS first_member FROM ia3.adapter a, ia3.adapter b
 WHERE a.task = 'e' AND a.version = 1 AND b.task = 'e' AND b.version = 2;
CALL ia3_train_task('procedure', 'SELECT text, label FROM shots ORDER BY id', steps => 30, dropout => 0, seed => 7, optimizer => 'adamw', learning_rate => 0.02,
                    weight_decay => 0.1);
SELECT count(DISTINCT digest) FROM ia3.adapter WHERE task = 'procedure' OR (task = 't' AND version = 4);
-- values that are not allowed
SELECT o, train(o) FROM unnest(ARRAY[$$optimizer => 'sgd'$$, $$optimizer => 'AdamW'$$, 'weight_decay => 0.1', $$optimizer => 'adamw', weight_decay => 2$$,
    $$optimizer => 'adamw', weight_decay => 'NaN'$$, 'ema => 1', 'ema => -0.5', $$ema => 'NaN'$$, 'optimizer => NULL, weight_decay => NULL, ema => NULL']) o;

SELECT count(ia3_drop(task)) FROM ia3.task;
DROP TABLE shots;
DROP FUNCTION attempt, train;
