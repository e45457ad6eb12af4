-- ia3_export, ia3_export_config, ia3_import, ia3_merge: values, names of tensors, errors, privileges.
DELETE FROM ia3.given_version g WHERE NOT EXISTS (SELECT FROM ia3.adapter a WHERE a.task = g.task); -- other tests use the same names
SET client_min_messages = warning;

-- an error as text; $DIR stands for the directory that checkpoints are written to
SELECT current_setting('data_directory') || '/ia3_regress_merge' AS dir \gset
\setenv DIR :dir
\! rm -rf "$DIR" && mkdir "$DIR"
CREATE FUNCTION attempt(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    message text; detail text; hint text;
BEGIN
    EXECUTE statement;
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN regexp_replace(concat_ws(' | ', SQLSTATE, message, nullif(detail, ''), nullif(hint, '')),
                          '/[^"]*/ia3_regress_merge', '$DIR', 'g');
END $$;

-- a safetensors file consists of the length of the header (8 bytes, little endian), the header, and the data
CREATE FUNCTION header(adapter bytea) RETURNS text LANGUAGE sql AS $$
    SELECT convert_from(substr(adapter, 9, get_byte(adapter, 0) + 256 * get_byte(adapter, 1)), 'UTF8')
$$;
CREATE FUNCTION edit(adapter bytea, pattern text, replacement text, flags text DEFAULT 'g') RETURNS bytea
LANGUAGE sql AS $$
    SELECT set_byte(set_byte('\x0000000000000000'::bytea, 0, length(new) % 256), 1, length(new) / 256)
           || convert_to(new, 'UTF8')
           || substr(adapter, 9 + length(header(adapter)))
      FROM regexp_replace(header(adapter), pattern, replacement, flags) new
$$;

SELECT ia3_train('t', $$VALUES ('I was charged twice', 'billing'), ('cannot log in', 'access')$$,
                 template => ARRAY['Ticket: {text}'], steps => 20, seed => 1, learning_rate => 0.02);

-- the exported bytes are the stored ones
SELECT ia3_export('t') = vectors AS same, sha256(ia3_export('t')) = digest AS digest FROM ia3.adapter;
SELECT left(header(ia3_export('t')), 172);
SELECT ia3_export('t@1') = ia3_export('t') AS pinned;
SELECT jsonb_pretty(ia3_export_config('t') - 'base_model_name_or_path');
SELECT ia3_export_config('t') ->> 'base_model_name_or_path' = path AS path FROM ia3_stat_engine;
SELECT ia3_export(NULL) IS NULL AS strict, ia3_export_config(NULL) IS NULL AS strict;
SELECT attempt($$SELECT ia3_export('u')$$);
SELECT attempt($$SELECT ia3_export('t@2')$$);
SELECT attempt($$SELECT ia3_export_config('u')$$);

-- imported again, they have the same bits and give the same scores
SELECT ia3_import('u', ia3_export('t'));
SELECT count(DISTINCT digest), count(DISTINCT backbone_digest) FROM ia3.adapter;
SELECT task, version, active, examples, loss, recipe FROM ia3.adapters WHERE task = 'u';
SELECT template, choices, backbone, active_version FROM ia3.task WHERE task = 'u';
SELECT attempt($$SELECT ia3_predict('u', 'pay')$$);
SELECT bool_and(a = b) AS equal_scores, count(*)
  FROM ia3_classify('t', 'pay', ARRAY['billing', 'access']) a
  JOIN ia3_classify('u', 'Ticket: pay', ARRAY['billing', 'access']) b USING (rank);
-- choices set by the owner apply to an imported version, pinned or not
UPDATE ia3.task SET choices = ARRAY['billing', 'access'] WHERE task = 'u';
SELECT ia3_predict('u', 'pay') = ia3_predict('u@1', 'pay') AS same;
-- an existing task keeps its template and choices; each import gets a new version, even of the same bytes
SELECT ia3_import('t', ia3_export('t'), ia3_export_config('t'));
SELECT active_version, template, choices FROM ia3.task WHERE task = 't';
SELECT parent_version, recipe - 'config' AS recipe, recipe -> 'config' = ia3_export_config('t') AS config
  FROM ia3.adapter WHERE task = 't' AND version = 2;
SELECT ia3_train('t', $$VALUES ('I was charged twice', 'a'), ('cannot log in', 'b')$$, steps => 1, seed => 1);
SELECT ia3_activate('t', 2);
SELECT active_version, template, choices FROM ia3.task WHERE task = 't';
-- training can start from imported vectors
SELECT ia3_train('t', $$VALUES ('I was charged twice', 'a'), ('cannot log in', 'b')$$, steps => 1, init => 'u');
BEGIN;
SELECT ia3_import('v', ia3_export('t'));
ROLLBACK;
SELECT count(*) FROM ia3.task WHERE task = 'v';

-- other forms of the same vectors: scaling the output of wi_1, T-Few's names, one dimension
CREATE TABLE spelling (name text, adapter bytea, config jsonb);
INSERT INTO spelling VALUES
    ('wi_1', edit(edit(ia3_export('t@1'), 'wo\.ia3_l', 'wi_1.ia3_l'), '\[1,512\]', '[512,1]'),
     '{"peft_type": "IA3", "target_modules": ["k", "v", "wi_1"], "feedforward_modules": []}'),
    ('t-few', edit(edit(edit(ia3_export('t@1'), 'wo\.ia3_l', 'wi_1.ia3_l'), '\[1,512\]', '[512,1]'),
                   'base_model\.model\.([^"]*)\.ia3_l', '\1.multi_lora_b'), NULL),
    ('flat', edit(edit(ia3_export('t@1'), '\[1,512\]', '[512]'), '\[256,1\]', '[256]'),
     '{"peft_type": "IA3", "target_modules": ".*(Attention.[kv]|wo)", "feedforward_modules": ".*wo"}');
SELECT name, CASE WHEN config IS NULL THEN ia3_import(name, adapter) ELSE ia3_import(name, adapter, config) END
  FROM spelling ORDER BY name;
SELECT a.task, a.digest = t.digest AS same FROM ia3.adapter a, ia3.adapter t
 WHERE t.task = 't' AND t.version = 1 AND a.task IN ('wi_1', 't-few', 'flat') ORDER BY 1;
DROP TABLE spelling;

-- bytes that are not an adapter of this backbone
SELECT attempt($$SELECT ia3_import('x', '')$$);
SELECT attempt($$SELECT ia3_import('x', 'not a file')$$);
SELECT attempt($$SELECT ia3_import('x', substr(ia3_export('t'), 1, 100))$$);
SELECT attempt($$SELECT ia3_import('x', substr(ia3_export('t'), 1, length(ia3_export('t')) - 1))$$);
SELECT attempt($$SELECT ia3_import('x', ia3_export('t') || '\x00')$$);
SELECT attempt($$SELECT ia3_import('x', edit(ia3_export('t'), '\[256,1\]', '[1,256]', ''))$$);
SELECT attempt($$SELECT ia3_import('x', edit(ia3_export('t'), '\[1,512\]', '[512,1]', ''))$$);
SELECT attempt($$SELECT ia3_import('x', edit(ia3_export('t'), '\[256,1\]', '[64,4]', ''))$$);
SELECT attempt($$SELECT ia3_import('x', edit(ia3_export('t'), '"F32"', '"I32"', ''))$$);
SELECT attempt($$SELECT ia3_import('x', edit(ia3_export('t'), 'SelfAttention\.k', 'SelfAttention.q', ''))$$);
SELECT attempt($$SELECT ia3_import('x', edit(ia3_export('t'), 'base_model\.model\.decoder\.block\.0\.layer\.0\.SelfAttention\.k', 'decoder.block.0.layer.0.SelfAttention.v', ''))$$);
SELECT attempt($$SELECT ia3_import('x', edit(ia3_export('t'), 'ia3_l', 'lora_A.weight'))$$);
SELECT attempt($$SELECT ia3_import('x', edit(ia3_export('t'), 'wo.ia3_l', 'w0.ia3_l'))$$);
SELECT attempt($$SELECT ia3_import('x', edit(ia3_export('t'), 'decoder.block.1', 'decoder.block.7'))$$);
-- NaN and infinity
SELECT attempt($$SELECT ia3_import('x', overlay(ia3_export('t') PLACING '\x0000c07f' FROM length(ia3_export('t')) - 3))$$);
SELECT attempt($$SELECT ia3_import('x', overlay(ia3_export('t') PLACING '\x000080ff' FROM length(ia3_export('t')) - 3))$$);

--
-- Adapters with some of the tensors: the rest of the backbone stays as it is
--
CREATE FUNCTION tensors(adapter bytea, pattern text, OUT name text, OUT shape jsonb, OUT bytes bytea) RETURNS SETOF record LANGUAGE sql AS $$
    SELECT key, value -> 'shape', substr(adapter, 9 + length(header(adapter)) + (value #>> '{data_offsets,0}')::int,
                                         (value #>> '{data_offsets,1}')::int - (value #>> '{data_offsets,0}')::int)
      FROM jsonb_each(header(adapter)::jsonb) WHERE key <> '__metadata__' AND key ~ pattern
$$;
CREATE FUNCTION part(adapter bytea, pattern text) RETURNS bytea LANGUAGE plpgsql AS $$
DECLARE
    t record; new jsonb := '{}'; data bytea := ''; head text;
BEGIN
    FOR t IN SELECT * FROM tensors(adapter, pattern) LOOP
        new := new || jsonb_build_object(t.name, jsonb_build_object('dtype', 'F32', 'shape', t.shape,
            'data_offsets', jsonb_build_array(length(data), length(data) + length(t.bytes))));
        data := data || t.bytes;
    END LOOP;
    head := rpad(new::text, (length(new::text) + 7) / 8 * 8);
    RETURN set_byte(set_byte('\x0000000000000000'::bytea, 0, length(head) % 256), 1, length(head) / 256) || convert_to(head, 'UTF8') || data;
END $$;
SELECT ia3_train('lora', $$VALUES ('I was charged twice', 'billing'), ('cannot log in', 'access')$$, method => 'lora', steps => 2, batch_size => 1, seed => 1);
SET client_min_messages = notice;
SELECT ia3_import('part', part(ia3_export('t'), '\.[kv]\.ia3_l$'),
                  ia3_export_config('t') || '{"target_modules": ["k", "v"], "feedforward_modules": []}');
SELECT ia3_import('part', part(ia3_export('t'), 'encoder'));
SELECT ia3_import('lora', part(ia3_export('lora@1'), '\.[qv]\.lora'));
SET client_min_messages = warning;
-- given values are kept, the others are ones
SELECT p.version, count(*) AS tensors, count(*) FILTER (WHERE x.bytes = y.bytes) AS same,
       count(*) FILTER (WHERE x.bytes = decode(repeat('0000803f', length(x.bytes) / 4), 'hex')) AS ones
  FROM generate_series(1, 2) p(version), tensors(ia3_export('part@' || version), '') x JOIN tensors(ia3_export('t'), '') y USING (name)
 GROUP BY p.version ORDER BY p.version;
SELECT count(*) AS tensors, count(*) FILTER (WHERE x.bytes = y.bytes) AS same,
       count(*) FILTER (WHERE x.name !~ '\.[qv]\.lora' AND x.bytes = decode(repeat('00', length(x.bytes)), 'hex')) AS zeros
  FROM tensors(ia3_export('lora@2'), '') x JOIN tensors(ia3_export('lora@1'), '') y USING (name);
-- of a kind of modules all layers are needed, of LoRA both matrices
SELECT attempt($$SELECT ia3_import('part', part(ia3_export('t'), 'block.0'))$$);
SELECT attempt($$SELECT ia3_import('part', part(ia3_export('lora@1'), 'lora_B'))$$);
SELECT attempt($$SELECT ia3_import('part', part(ia3_export('t'), 'nothing'))$$);

-- other targets of (IA)3: with vectors of q and o, without those of the feed-forward, of one kind of attention only
CREATE TABLE target (name text, targets text[]);
INSERT INTO target VALUES ('all', '{q,k,v,o,wo}'), ('wo', '{wo}'), ('cross', '{EncDecAttention.k,EncDecAttention.o}'), ('usual', '{v,wo,k}');
SELECT name, ia3_train('i_' || name, $$VALUES ('I was charged twice', 'billing'), ('cannot log in', 'access')$$, targets => targets, steps => 3,
                       seed => 1) FROM target;
SELECT name, c -> 'target_modules' AS target, c -> 'feedforward_modules' AS feedforward, c -> 'peft_type' AS type,
       ia3_import('copy_' || name, ia3_export('i_' || name)), ia3_import('copy_' || name, ia3_export('i_' || name), c)
  FROM target, ia3_export_config('i_' || name) c;
SELECT name, a.recipe -> 'method_options' AS options, b.recipe -> 'method_options' AS imported, a.digest = b.digest AS same
  FROM target, ia3.adapter a, ia3.adapter b
 WHERE a.task = 'i_' || name AND b.task = 'copy_' || name AND b.version = 2;
SELECT name, max(abs(a.score - b.score)) = 0 AS same
  FROM target, ia3_classify('i_' || name, 'pay') a JOIN ia3_classify('copy_' || name, 'pay', ARRAY['billing', 'access']) b USING (choice) GROUP BY name ORDER BY name;
-- training continues with the targets of an imported version
SELECT ia3_train('copy_all', $$VALUES ('I was charged twice', 'billing'), ('cannot log in', 'access')$$, init => 'copy_all', steps => 1, seed => 1);
SELECT recipe -> 'method_options' AS options FROM ia3.adapter WHERE task = 'copy_all' AND version = 3;
SELECT attempt($$SELECT ia3_import('x', ia3_export('i_all'), ia3_export_config('i_usual'))$$);
SELECT attempt($$SELECT ia3_import('x', ia3_export('i_usual'), ia3_export_config('i_all'))$$);
SELECT attempt($$SELECT ia3_import('x', ia3_export('i_cross'), ia3_export_config('i_all'))$$);
SELECT attempt($$SELECT ia3_import('x', ia3_export('i_all'), jsonb_set(ia3_export_config('i_all'), '{feedforward_modules}', '["wo", "o"]'))$$);
SELECT ia3_import('x', ia3_export('i_cross'), '{"peft_type": "IA3", "target_modules": ".*EncDecAttention.[ko]", "feedforward_modules": []}');
SELECT ia3_drop('x');
DROP TABLE target;

-- a configuration that names another model
SET client_min_messages = notice;
\set VERBOSITY terse
SELECT ia3_import('part', ia3_export('t'), ia3_export_config('t') || '{"base_model_name_or_path": "google/flan-t5-large"}');
SELECT ia3_import('part', ia3_export('t'), ia3_export_config('t') || '{"base_model_name_or_path": "somebody/Backbone/"}');
SELECT ia3_import('part', ia3_export('t'), ia3_export_config('t') || '{"base_model_name_or_path": ""}');
SELECT ia3_import('part', ia3_export('t'), ia3_export_config('t') || '{"base_model_name_or_path": null}');
\set VERBOSITY default
SET client_min_messages = warning;

-- configurations that contradict the bytes
CREATE FUNCTION with_config(changes jsonb) RETURNS text LANGUAGE sql AS $$
    SELECT attempt(format('SELECT ia3_import(''x'', ia3_export(''t''), %L)', ia3_export_config('t') || changes))
$$;
SELECT attempt($$SELECT ia3_import('x', ia3_export('t'), '[]')$$);
SELECT attempt($$SELECT ia3_import('x', ia3_export('t'), '{}')$$);
SELECT with_config('{"peft_type": "LORA"}');
SELECT with_config('{"peft_type": 3}');
SELECT with_config('{"target_modules": null}');
SELECT with_config('{"target_modules": 1}');
SELECT with_config('{"target_modules": ["k", "v", 7]}');
SELECT with_config('{"target_modules": ["k", "v", "w0"], "feedforward_modules": ["w0"]}');
SELECT with_config('{"target_modules": ["k", "v", "wo", "q"]}');
SELECT with_config('{"target_modules": ["k", "v", "wo", ""]}');
SELECT with_config('{"target_modules": ["k", "wo"]}');
-- 120,000 names are compared in time
SET statement_timeout = '2min';
SELECT with_config(jsonb_build_object('target_modules', array_fill('k'::text, '{60000}') || '{v,wo}'::text[],
                                      'feedforward_modules', array_fill('wo'::text, '{60000}') || '{q}'::text[]));
RESET statement_timeout;
SELECT with_config('{"target_modules": []}');
SELECT with_config('{"target_modules": "all-linear"}');
SELECT with_config('{"target_modules": ".*(k|v"}');
SELECT with_config('{"target_modules": ".*\\.[kv]"}');
SELECT with_config('{"feedforward_modules": []}');
SELECT with_config('{"feedforward_modules": ["wo", "wi"]}');
SELECT with_config('{"feedforward_modules": ["k"]}');
SELECT with_config('{"feedforward_modules": null}');
SELECT with_config('{"exclude_modules": ["v"]}');
SELECT with_config('{"modules_to_save": ["lm_head"]}');

-- names, NULLs, transactions
SELECT attempt($$SELECT ia3_import('a@1', ia3_export('t'))$$);
SELECT attempt($$SELECT ia3_import('', ia3_export('t'))$$);
SELECT ia3_import(NULL, 'x') IS NULL AS strict, ia3_import('x', NULL) IS NULL AS strict, ia3_import('x', 'x', NULL) IS NULL AS strict;
SELECT attempt($$SET LOCAL ia3.backbone = 'nowhere'; SELECT ia3_import('x', ia3_export('t'))$$);
BEGIN READ ONLY;
SELECT attempt($$SELECT ia3_import('x', ia3_export('t'))$$);
COMMIT;
SELECT count(*) FROM ia3.task WHERE task = 'x';

-- merged checkpoints
SELECT ia3_merge('t@1', :'dir' || '/merged');
SELECT name, (pg_stat_file(:'dir' || '/merged/' || name)).size = (pg_stat_file(path || '/' || name)).size AS same_size,
       pg_read_binary_file(:'dir' || '/merged/' || name) = pg_read_binary_file(path || '/' || name) AS same_bytes
  FROM ia3_stat_engine, pg_ls_dir(:'dir' || '/merged') name ORDER BY name;
SELECT attempt(format('SELECT ia3_merge(%L, %L)', 't', :'dir' || '/merged'));
SELECT attempt(format('SELECT ia3_merge(%L, %L)', 't', :'dir' || '/merged/'));
SELECT attempt(format('SELECT ia3_merge(%L, %L)', 't', :'dir' || '/merged/config.json'));
SELECT attempt(format('SELECT ia3_merge(%L, %L)', 't', :'dir' || '/no/such'));
SELECT attempt($$SELECT ia3_merge('t', 'merged')$$);
SELECT attempt($$SELECT ia3_merge('t', '')$$);
SELECT attempt(format('SELECT ia3_merge(%L, %L)', 'unknown', :'dir' || '/x'));
SELECT ia3_merge(NULL, '/x') IS NULL AS strict, ia3_merge('t', NULL) IS NULL AS strict;
-- an existing directory may be empty; a read-only transaction may merge, since merging changes nothing in the database
\! mkdir "$DIR/empty"
BEGIN READ ONLY;
SELECT ia3_merge('t@1', :'dir' || '//empty/.');
COMMIT;
SELECT pg_read_binary_file(:'dir' || '/empty/model.safetensors') = pg_read_binary_file(:'dir' || '/merged/model.safetensors') AS same;
SELECT pg_ls_dir(:'dir') ORDER BY 1;

-- an adapter that was trained on another backbone
INSERT INTO ia3.adapter (task, version, vectors, backbone_digest, recipe, created_by)
    SELECT 'u', 2, vectors, sha256('other'), '{}', 'me' FROM ia3.adapter WHERE task = 'u';
SELECT regexp_replace(attempt(format('SELECT ia3_merge(%L, %L)', 'u@2', :'dir' || '/x')), 'is [0-9a-f]{16}', 'is ...');
SELECT ia3_export('u@2') = ia3_export('u@1') AS still_exported;

-- privileges: importing and merging need a grant, merging also pg_write_server_files; tasks of other roles do
-- not exist
CREATE ROLE regress_ia3_carol;
SET ROLE regress_ia3_carol;
SELECT attempt($$SELECT ia3_import('hers', 'x')$$);
SELECT attempt($$SELECT ia3_import('hers', 'x', '{}')$$);
SELECT attempt($$SELECT ia3_export('t')$$);
SELECT attempt($$SELECT ia3_export_config('t')$$);
SELECT attempt(format('SELECT ia3_merge(%L, %L)', 't', :'dir' || '/x'));
RESET ROLE;
GRANT EXECUTE ON FUNCTION ia3_import(text, bytea), ia3_import(text, bytea, jsonb), ia3_merge TO regress_ia3_carol;
SET ROLE regress_ia3_carol;
SELECT attempt(format('SELECT ia3_merge(%L, %L)', 't', :'dir' || '/x'));
SELECT attempt($$SELECT ia3_merge('t', 'relative')$$);
RESET ROLE;
GRANT pg_write_server_files TO regress_ia3_carol;
SELECT encode(ia3_export('t@1'), 'hex') AS adapter \gset
SET ROLE regress_ia3_carol;
SELECT ia3_import('hers', decode(:'adapter', 'hex'));
SELECT attempt(format('SELECT ia3_import(%L, %L)', 't', '\x' || :'adapter'));
SELECT attempt(format('SELECT ia3_merge(%L, %L)', 't', :'dir' || '/x'));
SELECT ia3_merge('hers', :'dir' || '/hers');
SELECT task, owner, version FROM ia3.adapters;
RESET ROLE;
SELECT pg_read_binary_file(:'dir' || '/hers/model.safetensors') = pg_read_binary_file(:'dir' || '/merged/model.safetensors') AS same;
REVOKE EXECUTE ON FUNCTION ia3_import(text, bytea), ia3_import(text, bytea, jsonb), ia3_merge FROM regress_ia3_carol;

SELECT ia3_drop(task) FROM ia3.task;
DROP ROLE regress_ia3_carol;
DROP FUNCTION with_config, part, tensors, edit, header, attempt;
\! rm -rf "$DIR"
