# Engines and the supervisor may die; the server and its backends survive.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use Ia3Test;

my $node = ia3_node('crash');
create_shots($node);

my $postmaster = postmaster_pid($node);
my $two = q{'SELECT text, label FROM shots', steps => 2, seed => 1};
my $classify = q{SELECT choice FROM ia3_classify('the app crashes', ARRAY['billing', 'technical']) WHERE rank = 1};

# The first query waits until the engine has been loaded.
my $answer = $node->safe_psql('postgres', $classify);
like($answer, qr/^(billing|technical)$/, 'the first query waits for the engine');

# kill -9 while a query waits: the query fails, and the same backend continues with the next one.
my $pid = engine_pid($node);
my $query = start_query($node, "SELECT pg_backend_pid();\n$Ia3Test::ENDLESS;\nSELECT pg_backend_pid();\n$classify;\n");
ok(wait_for_training($node), 'training runs');
is(backend_of($node) > 0, 1, 'its backend is shown');
kill 'KILL', $pid;
my ($out, $err) = finish_query($query);
like($err, qr/ERROR:  08006: ia3 engine for backbone "default" went away/, 'the waiting query gets an ERROR');
like($err, qr/HINT:  It is being restarted/, 'and a hint');
unlike($err, qr/DETAIL:.*\nHINT:.*server log/, 'which refers to the server log only where there is no reason');
my @lines = split /\n/, $out;
is(scalar @lines, 3, 'the statements around it succeed');
is($lines[0], $lines[1], 'in the same backend');
is($lines[2], $answer, 'and the next query is answered as before');
isnt(engine_pid($node), $pid, 'by a new engine');
is($node->safe_psql('postgres', 'SELECT restarts FROM ia3_stat_engine'), '1', 'which is counted');
is($node->safe_psql('postgres', 'SELECT count(*) FROM ia3_stat_progress_train'), '0', 'no progress is left');
is($node->safe_psql('postgres', 'SELECT count(*) FROM ia3.adapters'), '0', 'no version is left');

# If the engine of an idle connection is replaced, the session reconnects without an error.
$pid = engine_pid($node);
my $started = time;
($out, $err) = finish_query(start_query($node,
    "$classify;\n\\! kill -SEGV $pid\nSELECT pg_sleep(0.2);\n$classify;\n"));
is($out, "$answer\n\n$answer\n", 'an idle connection reconnects');
is($err, '', 'silently');
cmp_ok(time - $started, '<', 30, 'and soon');

# While an engine does not answer there are no counters, but the view works.
$pid = engine_pid($node);
kill 'STOP', $pid;
$started = time;
is($node->safe_psql('postgres', 'SELECT state, batches IS NULL FROM ia3_stat_engine'), 'ready|t',
    'an engine that does not answer has no counters');
cmp_ok(time - $started, '<', 10, 'and does not block the view');
kill 'KILL', $pid;
ok(wait_until(sub { (engine_pid($node) || $pid) != $pid }), 'the next engine starts');
ok(wait_for_state($node, 'default', 'ready'), 'and gets ready');

# When the supervisor ends, its engine ends, too, and both are started again.
my $supervisor = supervisor_pid($node);
$pid = engine_pid($node);
kill 'TERM', $supervisor;
ok(wait_until(sub { !process_runs($supervisor) }), 'SIGTERM ends the supervisor');
ok(wait_until(sub { !process_runs($pid) }), 'and its engine');
is($node->safe_psql('postgres', $classify), $answer, 'a query waits for the next supervisor');
isnt(supervisor_pid($node), $supervisor, 'which is another process');
my @left = sockets($node);
is(scalar @left, 1, 'only one socket is there');

# A restart of the server.
$node->safe_psql('postgres', "SELECT ia3_train('kept', $two)");
my $kept = $node->safe_psql('postgres', q{SELECT choice, round(score::numeric, 4) FROM ia3_classify('kept', 'the app crashes')});
is(postmaster_pid($node), $postmaster, 'all this without a restart of the server');
$pid = engine_pid($node);
$node->restart;
ok(!process_runs($pid), 'a restart ends the engine');
is($node->safe_psql('postgres', q{SELECT choice, round(score::numeric, 4) FROM ia3_classify('kept', 'the app crashes')}),
    $kept, 'and a trained task answers the same after it');

# A fast shutdown during a training run leaves nothing behind.
$query = start_query($node, $Ia3Test::ENDLESS);
ok(wait_for_training($node), 'training runs');
$pid = engine_pid($node);
$started = time;
$node->stop('fast');
cmp_ok(time - $started, '<', 15, 'a fast shutdown does not wait for a training');
($out, $err) = finish_query($query);
like($err, qr/terminating connection due to administrator command/, 'which is told');
ok(!process_runs($pid), 'no engine is left');
is_deeply([ sockets($node) ], [], 'and no socket');

# An immediate shutdown ends the engine through its death pipe.
$node->start;
$node->safe_psql('postgres', $classify);
$pid = engine_pid($node);
$node->stop('immediate');
ok(wait_until(sub { !process_runs($pid) }), 'an immediate shutdown ends the engine, too');
$node->start;
is($node->safe_psql('postgres', $classify), $answer, 'and the server starts again');
@left = sockets($node);
is(scalar @left, 1, 'with the old socket removed');
$node->stop;

done_testing();
