# Tasks in several sessions and servers: concurrent training runs, what other sessions see, dumps, standbys.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use Ia3Test;

my $node = ia3_node('tasks', conf => "wal_level = replica\nmax_wal_senders = 4\n");
create_shots($node);

sub train
{
    my ($task, $steps) = @_;
    return "SELECT ia3_train('$task', 'SELECT text, label FROM shots', steps => $steps, seed => 1)";
}

sub value
{
    return $node->safe_psql('postgres', $_[0]);
}

# Two simultaneous training runs of a task that does not exist yet.
my @queries = map { start_query($node, train('both', 60) . ";\n") } 1 .. 2;
ok(wait_for_query($node, q{SELECT count(*) = 2 FROM ia3_stat_progress_train WHERE task = 'both'}),
    'two sessions train the same task');
is(value('SELECT count(*) FROM ia3.task'), '0', 'nothing is visible before they end');
is( value(q{SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relname = 'shots' OR n.nspname = 'ia3' AND l.mode <> 'AccessShareLock'
            AND NOT (l.pid = pg_backend_pid())}),
    '0', 'they hold no locks on the examples, nor any that would stop another training');
my @versions = sort map { (finish_query($_))[0] } @queries;
is_deeply(\@versions, [ "1\n", "2\n" ], 'both succeed, with different versions');
is(value(q{SELECT bool_and(a.digest = b.digest) FROM ia3.adapter a, ia3.adapter b}),
    't', 'side by side gives what each would have given alone');

# A transaction stays open after training: others see the old version, and another training run waits for its end.
my $first = start_query($node, 'BEGIN; ' . train('both', 2) . "; SELECT pg_sleep(2); COMMIT;\n");
ok( wait_for_query($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query ~ 'pg_sleep' AND wait_event = 'PgSleep'}),
    'a transaction stays open after training');
is(value(q{SELECT active_version FROM ia3.task}), '2', 'readers see the old version');
is(value(train('both', 2)), '4', 'another training gets the next number');
my ($out) = finish_query($first);
like($out, qr/^3$/m, 'the first one has the number before it');
is(value(q{SELECT string_agg(version::text, ',' ORDER BY version) FROM ia3.adapter}), '1,2,3,4', 'no number is lost');
is(value(q{SELECT active_version FROM ia3.task}), '4', 'the last to finish is active');

# A statement uses the same version throughout, whatever is activated in the meantime.
value(q{SELECT ia3_train('snap', 'SELECT text, label FROM shots', steps => 1)});
value(q{SELECT ia3_train('snap', 'SELECT text, label FROM shots', steps => 1, choices => ARRAY['billing', 'technical', 'x'])});
my $reader = start_query($node, q{SELECT (SELECT count(*) FROM ia3_classify('snap', 'one')), pg_sleep(2) IS NULL,
        (SELECT count(*) FROM ia3_classify('snap', 'two'))});
ok( wait_for_query($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query ~ 'pg_sleep' AND wait_event = 'PgSleep'}),
    'a statement is in the middle');
value(q{SELECT ia3_activate('snap', 1)});
is(value(q{SELECT count(*) FROM ia3_classify('snap', 'two')}), '2', 'another version is active');
is((finish_query($reader))[0], "3|f|3\n", 'the statement goes on with the one that it began with');
value(q{SELECT ia3_drop('snap')});

# A task is renamed while others use it.
value(train('name', 2));
my $rename = start_query($node, "BEGIN; SELECT ia3_rename('name', 'renamed'); SELECT pg_sleep(2); COMMIT;\n");
ok( wait_for_query($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query ~ 'pg_sleep' AND wait_event = 'PgSleep'}),
    'a transaction renames a task');
is(value(q{SELECT count(*) FROM ia3_classify('name', 'pay')}), '2', 'until it ends, others know the old name');
my $training = start_query($node, train('name', 2) . ";\n");
my $copying = start_query($node, q{SELECT ia3_copy('both', 'renamed')} . ";\n");
is((finish_query($rename))[1], '', 'it ends');
is((finish_query($training))[0], "2\n", 'a training run that comes to its end meanwhile makes a new task of the old name');
like((finish_query($copying))[1], qr/42710: the name "renamed" cannot be used for a new ia3 task/, 'whoever wanted the new name hears that it is taken');
is(value(q{SELECT string_agg(task || '@' || version, ' ' ORDER BY task) FROM ia3.adapters WHERE task ~ 'name'}), 'name@2 renamed@1', 'nothing is lost');
my $pretraining = start_query($node, "CALL ia3_pretrain('base', 'SELECT 1 AS task, text, label FROM shots', steps => 100000, checkpoint_every => 0);\n");
ok(wait_for_query($node, q{SELECT count(*) = 1 FROM ia3_stat_progress_train WHERE task = 'base' AND step > 0}), 'a task is pre-trained');
value(q{SELECT ia3_copy('both', 'other')});
(undef, undef, my $refused) = $node->psql('postgres', q{BEGIN; SELECT ia3_rename('both', 'base'); ROLLBACK});
is($refused, '', 'a task can have its name as long as there is none');
value(q{SELECT ia3_rename('other', 'base')});
(undef, undef, $refused) = $node->psql('postgres', q{\set VERBOSITY sqlstate} . "\n" . q{SELECT ia3_rename('base', 'other')});
like($refused, qr/55006/, 'but then it cannot be renamed');
value(q{SELECT pg_cancel_backend(pid) FROM ia3_stat_progress_train});
finish_query($pretraining);
value(q{SELECT ia3_rename('base', 'other'), ia3_drop('name'), ia3_drop('renamed')});
value(q{SELECT ia3_drop('other')});

# In a transaction with a single snapshot a concurrent change is a serialization failure, as for any table.
my $serial = start_query($node, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1; SELECT pg_sleep(2); "
        . train('both', 1) . "; ROLLBACK;\n");
ok( wait_for_query($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query ~ 'pg_sleep' AND wait_event = 'PgSleep'}),
    'a transaction with an older snapshot');
value(train('both', 1));
my (undef, $err) = finish_query($serial);
like($err, qr/40001: could not serialize access/, 'fails to serialize');

# A dump includes tasks and versions; after restoring it they give the same scores.
value(q{CREATE ROLE alice; GRANT CREATE ON SCHEMA public TO alice});
value('GRANT SELECT ON shots TO alice; GRANT EXECUTE ON FUNCTION ia3_train TO alice; SET ROLE alice; ' . train('hers', 2));
my $scores = q{SELECT string_agg(choice || ' ' || score, ', ' ORDER BY rank) FROM ia3_classify('%s', 'my card is refused')};
my %before = map { $_ => value(sprintf $scores, $_) } qw(both both@1 hers);
my $dump = $node->backup_dir . '.dump';
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, '-d', $node->connstr('postgres') ], 'pg_dump');
value('CREATE DATABASE restored');
$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr('restored'), $dump ], 'pg_restore');
foreach my $task (sort keys %before)
{
    is($node->safe_psql('restored', sprintf $scores, $task), $before{$task}, "$task scores the same after a restore");
}
my $state = q{SELECT task, owner, active_version, next_version FROM ia3.task ORDER BY task};
is($node->safe_psql('restored', $state), value($state), 'owners, active versions and counters are restored');
is( $node->safe_psql('restored', q{SET ROLE alice; SELECT string_agg(task, ',') FROM ia3.adapters}),
    'hers', 'and so is who sees what');

# A standby can classify, but not train.
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
ok(wait_for_state($standby, 'default', 'ready'), 'a standby has its own engine');
is($standby->safe_psql('postgres', sprintf $scores, 'both'), $before{both}, 'a standby gives the same scores');
my ($status, undef, $stderr) = $standby->psql('postgres', train('both', 1));
like($stderr, qr/cannot execute ia3_train\(\) during recovery\nHINT:  Execute it on the primary server./, 'a standby does not train');
is($standby->safe_psql('postgres', q{SELECT ia3_ready(), ia3_ready('another')}), 't|f', 'a standby is ready');
my $next = value(train('both', 3));
$node->wait_for_catchup($standby);
is($standby->safe_psql('postgres', q{SELECT active_version FROM ia3.task WHERE task = 'both'}),
    $next, 'new versions arrive');
is( $standby->safe_psql('postgres', sprintf $scores, 'both'),
    value(sprintf $scores, 'both'), 'and are used at once');
$standby->stop;
$node->stop;

done_testing();
