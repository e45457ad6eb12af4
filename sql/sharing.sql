-- Sharing a task, and what roles without access can find out about it.
DELETE FROM ia3.given_version g WHERE NOT EXISTS (SELECT FROM ia3.adapter a WHERE a.task = g.task); -- other tests use the same names
SET client_min_messages = warning;

CREATE ROLE regress_ia3_alice;
CREATE ROLE regress_ia3_readers;
CREATE ROLE regress_ia3_bob;
CREATE ROLE regress_ia3_rita IN ROLE regress_ia3_readers;

-- what a caller can see of an error, without the text of its own call
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

--
-- Training, importing and merging need a grant; predicting does not
--
SELECT p.proname AS closed, count(*) FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid
 WHERE d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'ia3') AND d.classid = 'pg_proc'::regclass
   AND NOT has_function_privilege('regress_ia3_bob', p.oid, 'EXECUTE') GROUP BY 1 ORDER BY 1;
SET ROLE regress_ia3_alice;
SELECT attempt($$SELECT ia3_train('shared', $q$VALUES ('I was charged twice', 'billing'), ('cannot log in', 'access')$q$)$$);
SELECT attempt($$SELECT ia3_import('shared', '\x00')$$);
SELECT attempt($$SELECT ia3_merge('shared', '/nowhere')$$);
-- there is no way around the grants
SELECT attempt($$INSERT INTO ia3.task (task, owner, backbone, template) VALUES ('shared', 'regress_ia3_alice', 'default', '{"{text}"}')$$);
SELECT attempt($$INSERT INTO ia3.adapter (task, version, vectors, backbone_digest, recipe, created_by)
    VALUES ('shared', 2, 'x', sha256('z'), '{}', 'me')$$);
RESET ROLE;
GRANT EXECUTE ON FUNCTION ia3_train TO regress_ia3_alice, regress_ia3_bob, regress_ia3_readers;
GRANT EXECUTE ON FUNCTION ia3_import(text, bytea) TO regress_ia3_bob, regress_ia3_readers;
GRANT EXECUTE ON FUNCTION ia3_merge, ia3_copy, ia3_average TO regress_ia3_bob, regress_ia3_readers;
GRANT pg_write_server_files TO regress_ia3_bob;

SET ROLE regress_ia3_alice;
SELECT ia3_train('shared', $$VALUES ('I was charged twice', 'billing'), ('cannot log in', 'access')$$, steps => 1, seed => 1);
SELECT ia3_train('shared', $$VALUES ('I was charged twice', 'billing'), ('cannot log in', 'access')$$, steps => 2, seed => 1);
SELECT owner, readers FROM ia3.task;
RESET ROLE;
CREATE TABLE expected AS SELECT choice, score FROM ia3_classify('shared', 'pay');
GRANT SELECT ON expected TO PUBLIC;

--
-- Without a grant a task does not exist: each call raises the same error as for a name that is not used
--
CREATE TABLE calls (id serial, call text);
INSERT INTO calls (call) VALUES
    ('ia3_predict(%L, ''pay'')'), ('ia3_predict(%L, ''pay'', ARRAY[''a'', ''b''])'),
    ('ia3_predict(%L, ''{"text": "pay"}''::jsonb)'), ('ia3_predict(%L, ''{"text": "pay"}''::jsonb, ARRAY[''a'', ''b''])'),
    ('ia3_classify(%L, ''pay'')'), ('ia3_classify(%L, ''pay'', ARRAY[''a'', ''b''])'),
    ('ia3_classify(%L, ''{"text": "pay"}''::jsonb)'), ('ia3_classify(%L || ''@1'', ''pay'')'),
    ('ia3_classify(%L || ''@7'', ''pay'')'), ('ia3_predict_window(%L, ''pay'') OVER ()'),
    ('ia3_activate(%L, 1)'), ('ia3_activate(%L, 7)'), ('ia3_activate(%L, 0)'), ('ia3_drop(%L)'), ('ia3_drop(%L, 1)'),
    ('ia3_drop(%L, 2)'), ('ia3_drop(%L, 7)'), ('ia3_grant(%L, ''regress_ia3_bob'')'), ('ia3_revoke(%L, ''regress_ia3_alice'')'),
    ('ia3_export(%L)'), ('ia3_export(%L || ''@2'')'), ('ia3_export_task(%L)'), ('ia3_rename(%L, ''bobs'')'), ('ia3_copy(%L, ''bobs'')'), ('ia3_average(''bobs'', ARRAY[%L])'), ('ia3_export_config(%L)'), ('ia3_merge(%L, ''/nowhere'')'),
    ('ia3_train(''bobs'', $q$VALUES (''a'', ''x''), (''b'', ''y'')$q$, steps => 1, init => %L)'),
    ('ia3_train(''bobs'', $q$VALUES (''a'', ''x''), (''b'', ''y'')$q$, steps => 1, init => %L || ''@1'')'),
    ('ia3_evaluate(%L, ''TABLE expected'')'), ('ia3_confusion(%L || ''@2'', ''TABLE expected'')'),
    ('ia3_plot(%L)'), ('ia3_plot(%L, 2)'), ('ia3_plot(%L, ''TABLE expected'')'),
    ('ia3_generate(%L, ''pay'')'), ('ia3_generate(%L, ''pay'', 3, 0.5)'), ('ia3_generate(%L, ''{"text": "pay"}''::jsonb)');
GRANT SELECT ON calls TO PUBLIC;
SET ROLE regress_ia3_bob;
SELECT count(*) FROM ia3.task;
SELECT count(*) FROM ia3.adapter;
SELECT count(*) FROM ia3.adapters;
SELECT id, call, attempt('SELECT ' || format(call, 'shared')) AS hidden FROM calls
 WHERE attempt('SELECT ' || format(call, 'shared')) <> replace(attempt('SELECT ' || format(call, 'nobody')), 'nobody', 'shared')
 ORDER BY id;
-- the errors are not empty
SELECT count(*) AS all,
       count(*) FILTER (WHERE attempt('SELECT ' || format(call, 'shared')) !~ '^42704 .*does not exist$') AS other FROM calls;
-- using its name is the exception, as names are unique; the error reveals no more, whatever state the task is in
SELECT attempt($$SELECT ia3_train('shared', $q$VALUES ('a', 'x'), ('b', 'y')$q$, steps => 1)$$);
SELECT attempt($$SELECT ia3_import('shared', '\x00')$$);
SELECT attempt($$UPDATE ia3.task SET task = 'shared'$$);
SELECT attempt($$SELECT * FROM ia3.task WHERE task = 'shared' FOR UPDATE$$);
RESET ROLE;

--
-- A grant gives read access, to members of the role as well
--
SET ROLE regress_ia3_alice;
SELECT ia3_grant('shared', 'regress_ia3_readers'), ia3_grant('shared', 'regress_ia3_readers');
SELECT ia3_grant('shared', 'nobody');
SELECT ia3_revoke('shared', 'nobody');
SELECT ia3_grant(NULL, 'public') IS NULL AS strict, ia3_grant('shared@1', 'public');
SELECT owner, readers FROM ia3.task;
SET ROLE regress_ia3_rita;
SELECT task, active_version FROM ia3.task;
SELECT task, version, active, owner FROM ia3.adapters ORDER BY version;
SELECT count(*) FROM ia3.adapter;
SELECT c.choice, c.score = e.score AS same FROM ia3_classify('shared', 'pay') c JOIN expected e USING (choice) ORDER BY c.rank;
SELECT ia3_predict('shared@1', 'pay') IN ('billing', 'access') AS pinned, octet_length(ia3_export('shared')) > 0 AS exported,
       ia3_export_config('shared') ->> 'peft_type' AS peft_type;
SELECT n FROM ia3_evaluate('shared', $$VALUES ('charged', 'billing')$$);
SELECT sum(n) FROM ia3_confusion('shared@1', $$VALUES ('charged', 'billing')$$);
SELECT ia3_plot('shared') ~ '^<svg' AS plotted, ia3_generate('shared', 'pay', 2) IS NOT NULL AS generated;
-- but not to the query of the training, nowhere
SELECT count(*) FROM ia3.adapter_query;
SELECT count(query) AS queries, count(*) FILTER (WHERE adapters::text ~ 'charged') AS mentions FROM ia3.adapters;
SELECT count(*) FILTER (WHERE adapter::text ~ 'charged') AS mentions FROM ia3.adapter;
SET ROLE regress_ia3_alice;
SELECT version, query FROM ia3.adapters WHERE task = 'shared' ORDER BY version;
SELECT task, version, query FROM ia3.adapter_query ORDER BY version;
SET ROLE regress_ia3_rita;
-- a task of the role may start from it
SELECT ia3_train('ritas', $$VALUES ('a', 'x'), ('b', 'y')$$, steps => 1, init => 'shared@1');
SELECT recipe ->> 'init' AS init FROM ia3.adapters WHERE task = 'ritas';
-- it does not allow changes
SELECT attempt($$SELECT ia3_train('shared', $q$VALUES ('a', 'x'), ('b', 'y')$q$, steps => 1)$$);
SELECT attempt($$SELECT ia3_import('shared', ia3_export('shared'))$$);
SELECT attempt($$SELECT ia3_activate('shared', 1)$$);
SELECT attempt($$SELECT ia3_drop('shared')$$);
SELECT attempt($$SELECT ia3_drop('shared', 1)$$);
SELECT attempt($$SELECT ia3_grant('shared', 'regress_ia3_bob')$$);
SELECT attempt($$SELECT ia3_revoke('shared', 'regress_ia3_readers')$$);
UPDATE ia3.task SET comment = 'mine', owner = 'regress_ia3_rita' WHERE task = 'shared';
DELETE FROM ia3.task WHERE task = 'shared';
DELETE FROM ia3.adapter WHERE task = 'shared';
-- a member that does not inherit privileges needs SET ROLE
RESET ROLE;
CREATE ROLE regress_ia3_nina NOINHERIT IN ROLE regress_ia3_readers, regress_ia3_alice;
GRANT EXECUTE ON FUNCTION ia3_train TO regress_ia3_nina;
SET ROLE regress_ia3_nina;
SELECT count(*) FROM ia3.task;
SELECT count(*) FROM ia3.adapters;
SELECT attempt($$SELECT ia3_predict('shared', 'pay')$$);
SELECT attempt($$SELECT ia3_drop('shared')$$);
SELECT attempt($$SELECT ia3_train('shared', $q$VALUES ('a', 'x'), ('b', 'y')$q$, steps => 1)$$);
SET ROLE regress_ia3_readers;
SELECT count(*) FROM ia3.task;
RESET ROLE;
REVOKE EXECUTE ON FUNCTION ia3_train FROM regress_ia3_nina;
DROP ROLE regress_ia3_nina;
-- other roles still see nothing
SET ROLE regress_ia3_bob;
SELECT count(*) FROM ia3.adapters;
SELECT attempt($$SELECT ia3_predict('shared', 'pay')$$);
-- grants to everybody
SET ROLE regress_ia3_alice;
SELECT ia3_grant('shared', 'public');
SET ROLE regress_ia3_bob;
SELECT ia3_predict('shared', 'pay') IN ('billing', 'access') AS works;
SET ROLE regress_ia3_alice;
SELECT owner, readers FROM ia3.task;
-- a grant is transactional
BEGIN;
SELECT ia3_revoke('shared', 'public');
SET LOCAL ROLE regress_ia3_bob;
SELECT count(*) FROM ia3.adapters;
ROLLBACK;
SET ROLE regress_ia3_bob;
SELECT count(*) FROM ia3.adapters;
-- a grant can be revoked
SET ROLE regress_ia3_alice;
SELECT ia3_revoke('shared', 'public'), ia3_revoke('shared', 'regress_ia3_readers'), ia3_revoke('shared', 'regress_ia3_readers');
SELECT owner, readers FROM ia3.task;
SET ROLE regress_ia3_rita;
SELECT task FROM ia3.adapters;
SELECT attempt($$SELECT ia3_predict('shared', 'pay')$$);
-- answers that a session has got as one role are not used for another role
SET ROLE regress_ia3_alice;
PREPARE ask AS SELECT ia3_predict('shared', 'pay') IN ('billing', 'access') AS works;
EXECUTE ask;
SET ROLE regress_ia3_bob;
EXECUTE ask;
RESET ROLE;
BEGIN READ ONLY;
SELECT ia3_grant('shared', 'regress_ia3_bob');
ROLLBACK;

--
-- Changing the owner; roles that have been dropped
--
SET ROLE regress_ia3_alice;
UPDATE ia3.task SET owner = 'regress_ia3_bob';
RESET ROLE;
GRANT regress_ia3_bob TO regress_ia3_alice;
SET ROLE regress_ia3_alice;
UPDATE ia3.task SET owner = 'regress_ia3_bob';
RESET ROLE;
REVOKE regress_ia3_bob FROM regress_ia3_alice;
SET ROLE regress_ia3_alice;
SELECT count(*) FROM ia3.adapters;
SET ROLE regress_ia3_bob;
SELECT ia3_grant('shared', 'regress_ia3_alice');
SELECT owner, readers FROM ia3.task;
RESET ROLE;
REVOKE ALL ON FUNCTION ia3_train, ia3_import(text, bytea), ia3_merge, ia3_copy, ia3_average FROM regress_ia3_alice, regress_ia3_bob, regress_ia3_readers;
REVOKE pg_write_server_files FROM regress_ia3_bob;
-- a new name changes nothing for the role, and the old name gives nothing to another
ALTER ROLE regress_ia3_bob RENAME TO regress_ia3_robert;
CREATE ROLE regress_ia3_bob;
SELECT owner, readers FROM ia3.task WHERE task = 'shared';
SET ROLE regress_ia3_bob;
SELECT count(*) FROM ia3.task;
SET ROLE regress_ia3_robert;
SELECT ia3_predict('shared', 'pay') IN ('billing', 'access') AS works;
-- comparisons, grouping and casts; the operators find a role by the name that it has now
SELECT task FROM ia3.task WHERE owner = 'regress_ia3_robert' AND owner = 'regress_ia3_robert'::regrole AND 'regress_ia3_alice' = ANY (readers)
   AND owner >= 'regress_ia3_robert' AND owner <= 'regress_ia3_robert' AND NOT owner < 'regress_ia3_robert' AND NOT owner > 'regress_ia3_robert'
   AND owner <> 'regress_ia3_bob' AND owner::regrole = 'regress_ia3_robert'::regrole;
SELECT owner, count(*) FROM ia3.task GROUP BY owner ORDER BY owner;
SELECT count(*) FROM ia3.task a JOIN ia3.task b USING (owner);
SELECT '-'::ia3.role, '0'::ia3.role AS zero, 'Nobody'::ia3.role AS folded, '"No Body"'::ia3.role AS quoted, '12'::ia3.role AS number,
       '"12"'::ia3.role AS name, 'nobody'::ia3.role::regrole IS NULL AS none, '10'::ia3.role::regrole IS NULL AS no_oid;
SELECT attempt($$SELECT 'a b'::ia3.role$$), attempt($$SELECT 'a.b'::ia3.role$$), attempt($$SELECT ''::ia3.role$$);
-- an update cannot name a role that does not exist
SELECT attempt($$UPDATE ia3.task SET owner = 'nobody'$$), attempt($$UPDATE ia3.task SET owner = '-'$$),
       attempt($$UPDATE ia3.task SET owner = '10'$$), attempt($$UPDATE ia3.task SET readers = readers || 'nobody'::ia3.role$$);
-- everybody who looks at the table pays for the readers
SELECT attempt($$UPDATE ia3.task SET readers = array_fill('regress_ia3_bob'::ia3.role, ARRAY[10001])$$);
-- tasks are reassigned like objects: the caller needs the privileges of both roles
SELECT attempt($$SELECT ia3_reassign('regress_ia3_robert', 'regress_ia3_bob')$$), attempt($$SELECT ia3_reassign('regress_ia3_bob', 'regress_ia3_robert')$$),
       attempt($$SELECT ia3_reassign('nobody', 'regress_ia3_robert')$$), attempt($$SELECT ia3_reassign('regress_ia3_robert', 'nobody')$$);
SELECT ia3_reassign('regress_ia3_robert', 'regress_ia3_robert'), ia3_reassign(NULL, 'regress_ia3_robert') IS NULL AS strict;
RESET ROLE;
-- dropping a role does not affect the rows that refer to it, nor does PostgreSQL's REASSIGN OWNED
REASSIGN OWNED BY regress_ia3_robert TO regress_ia3_bob;
DROP OWNED BY regress_ia3_robert;
DROP ROLE regress_ia3_alice, regress_ia3_robert;
SELECT owner::text ~ '^[0-9]+$' AS nameless, readers::text ~ '^{[0-9]+}$' AS reader, owner::regrole IS NULL AS nobodys
  FROM ia3.task WHERE task = 'shared';
SELECT count(*) FROM ia3.adapters WHERE task = 'shared';
CREATE ROLE regress_ia3_robert;
SET ROLE regress_ia3_robert;
SELECT count(*) FROM ia3.adapters WHERE task = 'shared';
RESET ROLE;
SELECT owner AS nobody, readers[1] AS nobody_either FROM ia3.task WHERE task = 'shared' \gset
GRANT regress_ia3_robert TO regress_ia3_rita;
SET ROLE regress_ia3_rita;
SELECT replace(attempt(format('SELECT ia3_reassign(%L, %L)', :'nobody', 'regress_ia3_rita')), :'nobody', 'NUMBER');
RESET ROLE;
SELECT ia3_reassign(:'nobody', 'regress_ia3_rita'), ia3_revoke('shared', :'nobody_either');
SELECT attempt($$SELECT ia3_reassign('nobody', 'regress_ia3_rita')$$);
SELECT owner, readers FROM ia3.task WHERE task = 'shared';
DROP ROLE regress_ia3_bob, regress_ia3_robert;
SET ROLE regress_ia3_rita;
SELECT ia3_predict('shared', 'pay') IN ('billing', 'access') AS works;

--
-- The database computes the digests, for owners too
--
SELECT attempt($$UPDATE ia3.adapter SET digest = sha256('x')$$) LIKE '%| Column "digest" is a generated column.' AS refused;
SELECT attempt($$UPDATE ia3.adapter SET vectors = 'x'$$);
SELECT attempt($$ALTER TABLE ia3.adapter DISABLE TRIGGER adapter_is_immutable$$);
SELECT attempt($$ALTER TABLE ia3.adapter ALTER COLUMN digest DROP EXPRESSION$$);
SELECT attempt($$SET session_replication_role = replica$$);
SELECT attempt($$CREATE TRIGGER forge BEFORE INSERT ON ia3.adapter FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()$$);
SELECT attempt($$CREATE RULE forge AS ON INSERT TO ia3.adapter DO INSTEAD NOTHING$$);
\copy ia3.adapter (task, version, vectors, backbone_digest, recipe, created_by) FROM '/dev/null'
RESET ROLE;
-- even a superuser would have to alter the table first
SELECT attempt($$INSERT INTO ia3.adapter (task, version, vectors, digest, backbone_digest, recipe, created_by)
    VALUES ('shared', 9, 'x', sha256('y'), sha256('z'), '{}', 'me')$$) LIKE '%| Column "digest" is a generated column.' AS refused;
SELECT attempt($$INSERT INTO ia3.adapter (task, version, vectors, digest, backbone_digest, recipe, created_by)
    OVERRIDING SYSTEM VALUE VALUES ('shared', 9, 'x', sha256('y'), sha256('z'), '{}', 'me')$$) LIKE '%| Column "digest" is a generated column.' AS refused;
SELECT attempt($$COPY ia3.adapter (task, version, vectors, digest, backbone_digest, recipe, created_by) FROM '/dev/null'$$);
SELECT attempt($$UPDATE ia3.adapter SET digest = DEFAULT$$);
SELECT attempt($$UPDATE ia3.adapter SET vectors = 'x'$$);
INSERT INTO ia3.adapter (task, version, vectors, backbone_digest, recipe, created_by)
    SELECT task, 9, 'x', backbone_digest, '{}', 'me' FROM ia3.adapter WHERE task = 'shared' AND version = 1;
SELECT digest = sha256('x') AS honest FROM ia3.adapter WHERE version = 9;
SELECT attempt($$SELECT ia3_predict('shared@9', 'pay')$$);

--
-- A search_path that shadows every operator and function of pg_catalog, and its most common types
--
SET client_min_messages = error;
CREATE SCHEMA trap;
DO $$
DECLARE
    f record;
    n int := 0;
BEGIN
    FOR f IN SELECT DISTINCT ON (o.oprname, o.oprleft, o.oprright) quote_ident('f' || o.oid) AS name, o.oprname,
                    nullif(o.oprleft, 0)::regtype AS l, o.oprright::regtype AS r, o.oprresult::regtype AS result
               FROM pg_operator o WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprresult <> 0
    LOOP
        BEGIN
            EXECUTE format('CREATE FUNCTION trap.%s(%s) RETURNS %s LANGUAGE plpgsql AS $f$BEGIN RAISE ''sprung by %s''; END $f$',
                f.name, concat_ws(', ', f.l, f.r), f.result, f.oprname);
            EXECUTE format('CREATE OPERATOR trap.%s (%s RIGHTARG = %s, FUNCTION = trap.%s)', f.oprname,
                CASE WHEN f.l IS NOT NULL THEN format('LEFTARG = %s,', f.l) END, f.r, f.name);
            n := n + 1;
        EXCEPTION WHEN OTHERS THEN NULL; -- types that PL/pgSQL does not support
        END;
    END LOOP;
    FOR f IN SELECT p.proname, oidvectortypes(p.proargtypes) AS args, p.prorettype::regtype AS result
               FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND NOT p.proretset
    LOOP
        BEGIN
            EXECUTE format('CREATE FUNCTION trap.%I(%s) RETURNS %s LANGUAGE plpgsql AS $f$BEGIN RAISE ''sprung by %s''; END $f$',
                f.proname, f.args, f.result, f.proname);
            n := n + 1;
        EXCEPTION WHEN OTHERS THEN NULL;
        END;
    END LOOP;
    IF n < 2000 THEN RAISE 'only % traps', n; END IF;
END $$;
CREATE FUNCTION trap.unnest(anyarray) RETURNS SETOF anyelement LANGUAGE plpgsql AS $$BEGIN RAISE 'sprung by unnest'; END $$;
CREATE FUNCTION trap.jsonb_array_elements_text(jsonb) RETURNS SETOF text LANGUAGE plpgsql AS $$BEGIN RAISE 'sprung by jsonb'; END $$;
CREATE TABLE trap.task (task int);
CREATE TABLE trap.adapter (task int);
CREATE TABLE trap.adapters (task int);
GRANT USAGE ON SCHEMA trap TO PUBLIC;
GRANT EXECUTE ON FUNCTION ia3_train, ia3_import(text, bytea), ia3_copy, ia3_import_task(jsonb, text), ia3_import_task(text, text) TO regress_ia3_rita;
GRANT EXECUTE ON PROCEDURE ia3_pretrain TO regress_ia3_rita;
SET ROLE regress_ia3_rita;
SET search_path = trap, pg_catalog, public;
SELECT 'a'::pg_catalog.text = 'a'::pg_catalog.text AS the_trap_is_set;
SELECT now();
SELECT ia3_train('trapped', $$VALUES ('I was charged twice', 'billing'), ('cannot log in', 'access')$$, steps => 1, seed => 1);
SELECT ia3_train('trapped', $$VALUES ('I was charged twice', 'billing'), ('cannot log in', 'access')$$, steps => 1, seed => 1, init => 'trapped@1');
SELECT ia3_import('trapped', ia3_export('trapped@2'));
CALL ia3_pretrain('trapped', $$SELECT 'a' AS task, 'charged twice' AS text, 'billing' AS label$$, steps => 3, checkpoint_every => 1,
    activate => false);
SELECT ia3_predict('trapped', 'pay') IS NOT NULL AS predicted, ia3_predict('trapped@1', 'pay') IS NOT NULL AS pinned,
       ia3_predict('trapped', pg_catalog.jsonb_build_object('text', 'pay')) IS NOT NULL AS fields,
       ia3_predict('pay', '{a,b}'::pg_catalog.text[]) IS NOT NULL AS bare;
SELECT rank FROM ia3_classify('trapped', 'pay');
SELECT ia3_predict_window('trapped', 'pay') OVER () IS NOT NULL AS windowed;
SELECT ia3_activate('trapped', 1), ia3_drop('trapped', 2), ia3_grant('trapped', 'public'), ia3_revoke('trapped', 'public');
SELECT ia3_rename('trapped', 'renamed');
SELECT ia3_copy('renamed', 'trapped');
SELECT ia3_import_task(ia3_export_task('trapped'), 'imported');
SELECT ia3_drop('renamed'), ia3_drop('imported'), ia3_reassign('regress_ia3_rita', 'regress_ia3_rita');
SELECT ia3_export_config('trapped') IS NOT NULL AS config, ia3_render('{a}', '{"a": 1}') AS rendered,
       ia3_generate('trapped', 'pay', 2) IS NOT NULL AS generated, ia3_generate('trapped', 'pay', 2, 1.0) IS NOT NULL AS sampled,
       ia3_plot('trapped') IS NOT NULL AS plotted, ia3_plot('trapped', $$VALUES ('a', 'access')$$) IS NOT NULL AS confused;
SELECT n FROM ia3_evaluate('trapped', $$VALUES ('a', 'access')$$);
SELECT label, n FROM ia3_confusion('trapped', $$VALUES ('a', 'access')$$);
SELECT task, version, active, loss_curve IS NOT NULL AS curve FROM ia3.adapters ORDER BY task, version;
SELECT state FROM ia3_stat_engine;
SELECT pid FROM ia3_stat_progress_train;
SELECT ia3_drop('trapped');
RESET search_path;
RESET ROLE;
-- nor does such a search_path affect CREATE EXTENSION
SELECT ia3_drop(task) FROM ia3.task;
REVOKE ALL ON FUNCTION ia3_train, ia3_import(text, bytea), ia3_copy, ia3_import_task(jsonb, text), ia3_import_task(text, text) FROM regress_ia3_rita;
REVOKE ALL ON PROCEDURE ia3_pretrain FROM regress_ia3_rita;
DROP EXTENSION ia3;
SET search_path = trap, pg_catalog, public;
CREATE EXTENSION ia3 SCHEMA public;
SELECT ia3_train('trapped', $$VALUES ('a', 'x'), ('b', 'y')$$, steps => 1);
SELECT ia3_drop('trapped');
RESET search_path;
DROP SCHEMA trap CASCADE;

DROP TABLE calls, expected;
DROP FUNCTION attempt;
DROP ROLE regress_ia3_rita, regress_ia3_readers;
