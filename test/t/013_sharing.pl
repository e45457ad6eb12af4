# What outlives a server: shared tasks and privileges in dumps and replicas, and pre-training runs across restarts.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use Ia3Test;

my $node = ia3_node('sharing', conf => "wal_level = logical\nmax_wal_senders = 4\nmax_replication_slots = 4\n");
create_shots($node);

sub value
{
    return $node->safe_psql('postgres', $_[0]);
}

# Returns standard error of a statement that a role runs in a database.
sub refusal
{
    my ($role, $sql, $database) = @_;
    my (undef, undef, $err) = $node->psql($database // 'postgres', "SET ROLE $role; $sql");
    return $err;
}

my $train = q{SELECT ia3_train('hers', 'SELECT text, label FROM shots', steps => 2, seed => 1)};
value(q{CREATE ROLE alice; CREATE ROLE bob; CREATE ROLE carol; GRANT SELECT ON shots TO alice, bob});
value("GRANT EXECUTE ON FUNCTION ia3_train TO alice; SET ROLE alice; $train; SELECT ia3_grant('hers', 'bob')");
my $scores = q{SELECT string_agg(choice || ' ' || score, ', ' ORDER BY rank) FROM ia3_classify('hers', 'my card is refused')};
my $expected = value("SET ROLE bob; $scores");
like($expected, qr/billing/, 'a reader asks');

value(q{SET ROLE alice; SELECT ia3_grant('hers', 'carol')});
is(value("SET ROLE carol; $scores"), $expected, 'a grant takes effect at once');
value(q{SET ROLE alice; SELECT ia3_revoke('hers', 'carol')});
like(refusal('carol', $scores), qr/ia3 task "hers" does not exist/, 'so does its end');

#
# Pre-training: the server crashes, then the engine; the same call ends as if nothing had happened.
#
sub pretrain
{
    my ($task) = @_;
    return "CALL ia3_pretrain('$task', 'SELECT ''shots'' AS task, text, label FROM shots', steps => 300, "
        . 'batch_size => 8, seed => 3, checkpoint_every => 20)';
}

sub step_of
{
    my ($task) = @_;
    return value("SELECT coalesce(max(step), 0) FROM ia3.checkpoint WHERE task = '$task'");
}

value(pretrain('through'));
my $query = start_query($node, pretrain('base') . ";\n");
ok(wait_for_query($node, q{SELECT count(*) = 1 FROM ia3.checkpoint WHERE step >= 40}), 'checkpoints appear while it runs');

# Only one session at a time may pre-train a task, since two would overwrite each other's checkpoints.
for my $call (pretrain('base'), pretrain('base') =~ s/seed => 3/seed => 4, resume => false/r)
{
    my ($out, $err) = finish_query(start_query($node, "$call;\n"));
    like($err, qr/ERROR:  55006: ia3 task "base" is being pre-trained by another session/, 'a second one at the same time is refused');
    like($err, qr/HINT:  Wait until that run has ended/, 'with a hint');
}
my ($out, $err) = finish_query(start_query($node, pretrain('beside') =~ s/300/3/r . ";\n"));
is($err, '', 'one of another task is not');
value(q{SELECT pg_cancel_backend(pid) FROM ia3_stat_progress_train});
($out, $err) = finish_query($query);
like($err, qr/ERROR:  57014/, 'it is cancelled');
is(value(q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'}), '0', 'and leaves no lock');
my $reached = step_of('base');
$query = start_query($node, pretrain('base') . ";\n");
ok(wait_for_query($node, "SELECT step > $reached FROM ia3.checkpoint"), 'now another session may go on');
$node->stop('immediate');
finish_query($query);
$node->start;
my $crashed = step_of('base');
cmp_ok($crashed, '>=', 40, 'they survive a crash of the server');
cmp_ok($crashed, '<', 300, 'which came before the end');
is(value(q{SELECT count(*) FROM ia3.adapter WHERE task = 'base'}), '0', 'the version has to wait');

ok(wait_for_state($node, 'default', 'ready'), 'the engine is back');
$query = start_query($node, pretrain('base') . ";\n");
ok( wait_for_query($node, "SELECT count(*) = 1 FROM ia3.checkpoint WHERE step > $crashed"), 'the same call goes on');
kill 'KILL', engine_pid($node);
($out, $err) = finish_query($query);
like($err, qr/resuming after step $crashed of 300/, 'after the last checkpoint');
like($err, qr/ERROR:  08006/, 'a crash of the engine ends it');
my $before = step_of('base');
cmp_ok($before, '>', $crashed, 'what it had reached stays');

# Another role takes the name while the first part of a run is computed: nothing of the run gets into its task.
value('GRANT EXECUTE ON PROCEDURE ia3_pretrain TO alice; GRANT EXECUTE ON FUNCTION ia3_train TO carol; GRANT SELECT ON shots TO carol');
ok(wait_for_state($node, 'default', 'ready'), 'the engine is back after the crash');
my $taker = start_query($node, q{BEGIN; SET ROLE carol; SELECT ia3_train('raced', 'SELECT text, label FROM shots', steps => 2); RESET ROLE;
    DO $$BEGIN
        WHILE NOT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ 'CALL ia3_pretrain') LOOP
            PERFORM pg_sleep(0.05), pg_stat_clear_snapshot();
        END LOOP;
    END$$;
    COMMIT;
});
ok(wait_for_query($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query ~ 'WHILE NOT EXISTS' AND wait_event = 'PgSleep'}),
    'a transaction has made a task that nobody sees yet');
($out, $err) = finish_query(start_query($node, 'SET ROLE alice; ' . pretrain('raced') . ";\n"));
like($err, qr/ERROR:  42710: the name "raced" cannot be used for a new ia3 task/, 'a run of the same name ends at its first checkpoint');
is((finish_query($taker))[1], '', 'the transaction is committed');
is(value(q{SELECT count(*) FROM ia3.checkpoint WHERE task = 'raced'}), '0', 'and its task has no checkpoint of another role');
value(q{SELECT ia3_drop('raced'); REVOKE EXECUTE ON FUNCTION ia3_train FROM carol});

# A dump includes the checkpoint and the privileges.
my $dump = $node->backup_dir . '.dump';
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, '-d', $node->connstr('postgres') ], 'pg_dump');
value('CREATE DATABASE restored');
$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr('restored'), $dump ], 'pg_restore');

ok(wait_for_state($node, 'default', 'ready'), 'the engine is back again');
value(pretrain('base'));
my $digests = q{SELECT count(DISTINCT digest) || ' of ' || count(*) FROM ia3.adapter WHERE task IN ('through', 'base')};
is(value($digests), '1 of 2', 'twice interrupted, it gives the same vectors');
is(value('SELECT count(*) FROM ia3.checkpoint'), '0', 'and leaves no checkpoint');
is($node->safe_psql('restored', 'SELECT step FROM ia3.checkpoint'), $before, 'the restored database has it still');
$node->safe_psql('restored', pretrain('base'));
is($node->safe_psql('restored', $digests), '1 of 2', 'and goes on from it to the same vectors');

is($node->safe_psql('restored', "SET ROLE bob; $scores"), $expected, 'a reader asks the restored task');
is($node->safe_psql('restored', q{SET ROLE alice; SELECT readers FROM ia3.task}), '{bob}', 'its owner sees who may');
like(refusal('carol', $scores, 'restored'), qr/does not exist/, 'others see nothing');
like(refusal('bob', $train, 'restored'), qr/permission denied for function ia3_train/, 'rights to train are restored');
is($node->safe_psql('restored', "SET ROLE alice; $train"), '2', 'with those that were granted');

#
# Logical replication of the two tables suffices to classify on another server, for the same roles.
#
my $subscriber = ia3_node('subscriber');
$subscriber->safe_psql('postgres', 'CREATE ROLE alice; CREATE ROLE bob; CREATE ROLE carol');
value('CREATE PUBLICATION tasks FOR TABLE ia3.task, ia3.adapter');
my $connstr = $node->connstr . ' dbname=postgres';
$subscriber->safe_psql('postgres', "CREATE SUBSCRIPTION tasks CONNECTION '$connstr' PUBLICATION tasks");
$subscriber->poll_query_until('postgres', q{SELECT count(*) = 2 AND bool_and(srsubstate IN ('r', 's')) FROM pg_subscription_rel})
    or die 'no initial synchronisation';
is($subscriber->safe_psql('postgres', "SET ROLE bob; $scores"), $expected, 'a subscriber gives the same scores to a reader');
is($subscriber->safe_psql('postgres', q{SELECT bool_and(digest = sha256(vectors)) FROM ia3.adapter}),
    't', 'it computes digests itself');
value(qq{SET ROLE alice; $train; SELECT ia3_revoke('hers', 'bob'); SELECT ia3_grant('hers', 'carol')});
$node->wait_for_catchup('tasks');
is($subscriber->safe_psql('postgres', q{SET ROLE carol; SELECT max(version) FROM ia3.adapters}),
    value(q{SELECT max(version) FROM ia3.adapters WHERE task = 'hers'}), 'new versions and grants arrive');
is($subscriber->safe_psql('postgres', q{SET ROLE bob; SELECT count(*) FROM ia3.adapters}), '0', 'and the end of grants');
value(q{SELECT ia3_drop('hers')});
$node->wait_for_catchup('tasks');
is($subscriber->safe_psql('postgres', q{SELECT count(*) FROM ia3.adapter WHERE task = 'hers'}), '0', 'and of tasks');
$subscriber->safe_psql('postgres', 'DROP SUBSCRIPTION tasks');
$subscriber->stop;
$node->stop;

done_testing();
