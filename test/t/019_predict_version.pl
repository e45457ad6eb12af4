# ia3_predict_version: what calls it how often, dumps and the order of their data, numbers that are not given twice, a missing engine.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use Ia3Test;

use constant ROWS => 300;

my $node = ia3_node('version', conf => "autovacuum = off\n");
create_shots($node);

sub value
{
    my ($sql, $database) = @_;
    return $node->safe_psql($database // 'postgres', $sql);
}

sub train
{
    return "SELECT ia3_train('$_[0]', 'SELECT text, label FROM shots', steps => 20, seed => $_[1])";
}

# How many rows the engine has predicted for a statement.
sub rows_for
{
    my ($sql) = @_;
    my $before = value('SELECT rows FROM ia3_stat_engine');
    value($sql);
    return value('SELECT rows FROM ia3_stat_engine') - $before;
}

#
# How often PostgreSQL evaluates an expression
#
is(value(train('topic', 1)), '1', 'a task is trained');
value('CREATE ROLE alice; GRANT CREATE ON SCHEMA public TO alice');
value(q{SELECT ia3_grant('topic', 'alice')});
value('CREATE TABLE plain AS SELECT n AS id, text || n AS body FROM generate_series(1, ' . ROWS . ') n, LATERAL (SELECT text FROM shots OFFSET n % 8 LIMIT 1) s');
value(<<'SQL');
SET ROLE alice;
CREATE TABLE mails (id int PRIMARY KEY, body text, topic text GENERATED ALWAYS AS (ia3_predict_version('topic', 1, body)) STORED);
SQL
is(rows_for('INSERT INTO mails SELECT * FROM plain'), ROWS, 'a generated column: each row once');
is(rows_for(q{CREATE INDEX mails_topic ON mails (ia3_predict_version('topic', 1, body))}), ROWS, 'CREATE INDEX: each row once');
is(rows_for('ANALYZE mails'), ROWS, 'ANALYZE evaluates the index for each row of the sample');
is(rows_for('ALTER INDEX mails_topic ALTER COLUMN 1 SET STATISTICS 0; ANALYZE mails'), 0, 'and without statistics for none');
is(rows_for(q{CREATE INDEX mails_billing ON mails (id) WHERE ia3_predict_version('topic', 1, body) = 'billing'}), ROWS, 'a partial index: each row once');
is(rows_for('ANALYZE mails'), ROWS, 'ANALYZE evaluates the condition for each row of the sample');
is(rows_for(q{SELECT count(*) FROM mails WHERE ia3_predict_version('topic', 1, body) = 'billing'}), 0, 'a plan that uses the index evaluates nothing');
like(value(q{EXPLAIN SELECT id FROM mails WHERE ia3_predict_version('topic', 1, body) = 'billing'}), qr/using mails_billing|on mails_billing/, 'and such a plan is made');
is(rows_for(q{UPDATE mails SET body = body || '!' WHERE id = 1}), 3, 'an update evaluates the column and the indexes');
is(rows_for(q{EXPLAIN SELECT ia3_predict_version('topic', 1, 'my card')}), 1, 'a constant call is evaluated by the planner');
is(rows_for('REINDEX INDEX CONCURRENTLY mails_topic'), ROWS, 'REINDEX CONCURRENTLY');
value('ANALYZE mails');
my $parallel = value(q{SET min_parallel_table_scan_size = 0; SET max_parallel_maintenance_workers = 2; REINDEX INDEX mails_topic; SELECT count(*) FROM mails WHERE ia3_predict_version('topic', 1, body) = topic});
is($parallel, ROWS, 'an index that parallel workers have built');
value('CREATE EXTENSION IF NOT EXISTS amcheck');
is(rows_for(q{SELECT bt_index_check('mails_topic', true)}), ROWS, 'amcheck predicts all rows again, and finds them in the index');

#
# Dumps. A table in a schema that comes before "ia3" has its data loaded before the versions are there.
#
value(<<'SQL');
CREATE SCHEMA app;
CREATE TABLE app.notes (body text, topic text GENERATED ALWAYS AS (ia3_predict_version('topic', 1, body)) STORED);
INSERT INTO app.notes SELECT body FROM plain WHERE id <= 20;
CREATE TABLE app.linked (body text CHECK (ia3_predict_version('topic', 1, body) <> ''));
INSERT INTO app.linked SELECT body FROM plain WHERE id <= 20;
SELECT ia3_copy('topic', 'gone');
SELECT ia3_drop('gone');
SQL
my $rows = q{SELECT (SELECT string_agg(body || topic, ' ' ORDER BY id) FROM mails) || (SELECT string_agg(body || topic, ' ' ORDER BY body) FROM app.notes) || count(*) FROM app.linked};
my $expected = value($rows);
my $dump = $node->backup_dir . '/dump';
mkdir $node->backup_dir;
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, '-d', $node->connstr('postgres') ], 'pg_dump');

sub restore
{
    my ($database, @options) = @_;
    my ($out, $err);
    IPC::Run::run([ 'pg_restore', '-d', $node->connstr($database), @options, $dump ], '<', \undef, '>', \$out, '2>', \$err);
    return $err;
}

value('CREATE DATABASE plainly');
my $complaints = restore('plainly');
like($complaints, qr/COPY failed for table "$_": ERROR:  ia3 task "topic" does not exist/, "a table in a schema before \"ia3\" is not restored: $_") for qw(notes linked);
unlike($complaints, qr/mails/, 'one in a later schema is');
is(value(q{SELECT count(*) FROM mails WHERE topic = ia3_predict_version('topic', 1, body)}, 'plainly'), ROWS, 'with its indexes, which belong to a role that is no superuser');

value('CREATE DATABASE ordered');
is( join('', map { restore('ordered', @$_) } [ '--section=pre-data' ], [ '--section=data', '-n', 'ia3' ], [ '--section=data', '-N', 'ia3', '-j', '3' ], [ '--section=post-data' ]),
    '', 'the data of the schema ia3 first, then everything else: without complaint');
is(value($rows, 'ordered'), $expected, 'all rows are there, with the same topics');
is(value(q{SELECT count(*) FROM mails WHERE topic = ia3_predict_version('topic', 1, body)}, 'ordered'), ROWS, 'which are what the version predicts');
like(value(q{ANALYZE mails; EXPLAIN SELECT id FROM mails WHERE ia3_predict_version('topic', 1, body) = 'billing'}, 'ordered'), qr/mails_billing/, 'the index is used');
my (undef, undef, $err) = $node->psql('ordered', q{SELECT ia3_drop('topic')});
like($err, qr/ERROR:  cannot drop ia3 task "topic" because other objects depend on it\nDETAIL:  constraint linked_body_check.*\n.*notes\n.*mails\nindex mails_billing\nindex mails_topic\n/, 'and keeps the task');
is(value(train('gone', 2), 'ordered'), '2', 'a dump has the numbers that are not used again');
is(value(q{SELECT count(*) FROM ia3.given_version}, 'ordered'), '3', 'each once');

#
# Numbers that two sessions want
#
my $drop = start_query($node, "BEGIN; SELECT ia3_drop('raced'); SELECT pg_sleep(2); COMMIT;\n");
finish_query($drop);
is(value(train('raced', 1)), '1', 'a name is free');
$drop = start_query($node, "BEGIN; SELECT ia3_drop('raced'); SELECT pg_sleep(2); COMMIT;\n");
ok(wait_for_query($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'}), 'a session drops the task');
my $other = start_query($node, 'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1; ' . train('raced', 3) . ";\n");
my $again = start_query($node, train('raced', 2) . ";\n");
is((finish_query($again))[0], "2\n", 'another one that trains it gets the next number');
finish_query($drop);
like((finish_query($other))[1], qr/40001/, 'and one with an old snapshot a serialization failure');

#
# Without an engine
#
value('ALTER TABLE mails DROP COLUMN topic');
$node->append_conf('postgresql.conf', "ia3.backbones = ''\nia3.start_timeout = 0\n");
$node->reload;
ok(wait_for_query($node, 'SELECT count(*) = 0 FROM ia3_stat_engine'), 'there is no engine');
for my $sql (q{INSERT INTO mails VALUES (0, 'my card')}, q{UPDATE mails SET id = id + 1000}, 'REINDEX TABLE mails')
{
    (undef, undef, $err) = $node->psql('postgres', $sql);
    like($err, qr/ERROR:  .*backbone "default"/, "without an engine this fails: $sql");
}
is(value('DELETE FROM mails WHERE id = 1 RETURNING id'), '1', 'rows can be deleted');
is(value(q{SELECT count(*) > 0 FROM mails WHERE ia3_predict_version('topic', 1, body) = 'billing'}), 't', 'and found by the index');

done_testing();
