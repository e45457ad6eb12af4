-- Who can see and change what; a hostile search_path.
DELETE FROM ia3.given_version g WHERE NOT EXISTS (SELECT FROM ia3.adapter a WHERE a.task = g.task); -- other tests use the same names
SET client_min_messages = warning;

CREATE ROLE regress_ia3_team;
CREATE ROLE regress_ia3_alice IN ROLE regress_ia3_team;
CREATE ROLE regress_ia3_bob;
GRANT CREATE ON SCHEMA public TO regress_ia3_alice, regress_ia3_bob;
GRANT EXECUTE ON FUNCTION ia3_train TO regress_ia3_team, regress_ia3_bob;

SET ROLE regress_ia3_alice;
CREATE TABLE alices (text text, label text);
INSERT INTO alices VALUES ('I was charged twice', 'billing'), ('cannot log in', 'access');
SELECT ia3_train('alices', 'TABLE alices', steps => 1);
SELECT owner, task, created_by FROM ia3.adapters;
SELECT ia3_predict('alices', 'pay') IN ('billing', 'access') AS works;
-- a task owned by a group belongs to all members of the group
SET ROLE regress_ia3_team;
SELECT ia3_train('teams', $$VALUES ('I was charged twice', 'billing'), ('cannot log in', 'access')$$, steps => 1);
SELECT task FROM ia3.adapters ORDER BY task;
SET ROLE regress_ia3_alice;
SELECT task, owner FROM ia3.adapters ORDER BY task;
SELECT ia3_train('teams', 'TABLE alices', steps => 1, init => 'teams');

-- others cannot see it, predict with it, change it, start from it or take its name
SET ROLE regress_ia3_bob;
SELECT count(*) FROM ia3.task;
SELECT count(*) FROM ia3.adapter;
SELECT count(*) FROM ia3.adapters;
SELECT ia3_predict('alices', 'pay');
SELECT ia3_predict('alices@1', 'pay');
SELECT ia3_activate('alices', 1);
SELECT ia3_drop('alices');
SELECT ia3_drop('alices', 1);
SELECT ia3_train('alices', $$VALUES ('a', 'x'), ('b', 'y')$$, steps => 1);
SELECT ia3_train('bobs', $$VALUES ('a', 'x'), ('b', 'y')$$, steps => 1, init => 'alices');
DELETE FROM ia3.task;
UPDATE ia3.task SET owner = 'regress_ia3_bob';
INSERT INTO ia3.task (task, owner, backbone, template) VALUES ('hers', 'regress_ia3_alice', 'default', '{"{text}"}');
INSERT INTO ia3.adapter (task, version, vectors, backbone_digest, recipe, created_by)
    VALUES ('alices', 2, 'x', sha256('z'), '{}', 'me');
UPDATE ia3.adapter SET version = 5;
TRUNCATE ia3.adapter;
-- a lock of a table would stop everybody's predictions
BEGIN;
LOCK TABLE ia3.task IN ACCESS EXCLUSIVE MODE;
ROLLBACK;
BEGIN;
LOCK TABLE ia3.adapter IN ROW EXCLUSIVE MODE;
ROLLBACK;
BEGIN;
LOCK TABLE ia3.checkpoint IN ACCESS EXCLUSIVE MODE;
ROLLBACK;
SELECT c.relname, p.privilege_type FROM pg_class c, aclexplode(c.relacl) p
 WHERE c.relnamespace = 'ia3'::regnamespace AND p.grantee = 0 ORDER BY 1, 2;
-- nor may the rows of others be locked
SELECT task FROM ia3.task WHERE task = 'alices' FOR KEY SHARE;
-- the query runs with the privileges of the caller, whoever wrote it
SELECT ia3_train('bobs', 'TABLE alices', steps => 1);
RESET ROLE;
SELECT t.task, t.owner, t.active_version, count(*) AS versions FROM ia3.task t JOIN ia3.adapter USING (task) GROUP BY t.task ORDER BY t.task;
-- owners and members can drop their tasks
SET ROLE regress_ia3_alice;
SELECT ia3_activate('teams', 1), ia3_drop('teams', 2);
SELECT task, version, active FROM ia3.adapters ORDER BY task, version;
SELECT ia3_drop('teams');
SELECT count(*) FROM ia3.adapter;
-- calls inside a SECURITY DEFINER function run as its owner
SET ROLE regress_ia3_alice;
CREATE FUNCTION ask_alices(text) RETURNS text LANGUAGE sql SECURITY DEFINER AS $$SELECT ia3_predict('alices', $1)$$;
SET ROLE regress_ia3_bob;
SELECT ask_alices('pay') IN ('billing', 'access') AS lent;
RESET ROLE;

-- malicious operators, functions and tables in the search_path are not used
CREATE SCHEMA trap;
SET search_path = trap, pg_catalog, public;
CREATE FUNCTION trap.spring(text, text) RETURNS bool LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'sprung'; END $$;
CREATE OPERATOR trap.= (LEFTARG = text, RIGHTARG = text, FUNCTION = trap.spring);
CREATE FUNCTION trap.springint(int, int) RETURNS bool LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'sprung'; END $$;
CREATE OPERATOR trap.= (LEFTARG = int, RIGHTARG = int, FUNCTION = trap.springint);
CREATE FUNCTION trap.springplus(int, int) RETURNS int LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'sprung'; END $$;
CREATE OPERATOR trap.+ (LEFTARG = int, RIGHTARG = int, FUNCTION = trap.springplus);
CREATE FUNCTION trap.pg_has_role(oid, text, text) RETURNS bool LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'sprung'; END $$;
CREATE FUNCTION trap.jsonb_typeof(jsonb) RETURNS text LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'sprung'; END $$;
CREATE TABLE trap.task (task int);
CREATE TABLE trap.adapter (task int);
SELECT 'a'::text = 'a'::text AS the_trap_is_set;
SELECT public.ia3_train('trapped', 'TABLE alices', steps => 1, seed => 1);
SELECT public.ia3_train('trapped', 'TABLE alices', steps => 1, seed => 1, init => 'trapped@1');
SELECT public.ia3_predict('trapped', 'pay') IS NOT NULL AS predicted, public.ia3_predict('trapped@1', 'pay') IS NOT NULL AS pinned;
SELECT public.ia3_activate('trapped', 1), public.ia3_drop('trapped', 2);
SELECT task, version, active FROM ia3.adapters WHERE task ~ 'trapped';
SELECT public.ia3_drop('trapped');
RESET search_path;
DROP SCHEMA trap CASCADE;

-- the functions may be installed in any schema; a schema ia3 that exists already is not used for the tables
DROP FUNCTION ask_alices;
SELECT ia3_drop(task) FROM ia3.task;
DROP EXTENSION ia3;
CREATE SCHEMA ia3;
\set SHOW_CONTEXT never
CREATE EXTENSION ia3;
\set SHOW_CONTEXT errors
DROP SCHEMA ia3;
CREATE SCHEMA elsewhere;
CREATE EXTENSION ia3 SCHEMA elsewhere;
SELECT elsewhere.ia3_version();
SELECT elsewhere.ia3_train('moved', $$VALUES ('a', 'x'), ('b', 'y')$$, steps => 1);
SELECT state FROM elsewhere.ia3_stat_engine;
DROP EXTENSION ia3;
DROP SCHEMA elsewhere;
CREATE EXTENSION ia3;

DROP TABLE alices;
REVOKE CREATE ON SCHEMA public FROM regress_ia3_alice, regress_ia3_bob;
DROP ROLE regress_ia3_alice, regress_ia3_bob, regress_ia3_team;
