# Engines that are stopped or stuck are noticed, killed and started again; slow ones are left alone.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use Ia3Test;

my $node = ia3_node('hang', conf => "ia3.hang_timeout = 4s\nia3.max_input_tokens_limit = 32768");
create_shots($node);
my $classify = q{SELECT choice FROM ia3_classify('the app crashes', ARRAY['billing', 'technical']) WHERE rank = 1};
my $answer = $node->safe_psql('postgres', $classify);
my $restarts = q{SELECT restarts FROM ia3_stat_engine};

# Stops the engine while $sql is under way; returns what the session says, and checks what others see.
sub stop_during
{
    my ($what, $sql, $ready) = @_;
    my $pid = engine_pid($node);
    my $before = $node->safe_psql('postgres', $restarts);
    my $query = start_query($node, "$sql;\n$classify;\n");
    ok($ready->(), "$what: is under way");
    kill 'STOP', $pid;
    ok(wait_for_state($node, 'default', 'hung'), "$what: a stopped engine becomes hung");
    like($node->safe_psql('postgres', 'SELECT message FROM ia3_stat_engine'),
        qr/^(It does not answer, and is restarted if this lasts for 4 s\.|The engine process did not answer for 4 s and was killed\.)$/,
        "$what: with the reason");
    ok(wait_until(sub { !process_runs($pid) }), "$what: and is killed");
    my ($out, $err) = finish_query($query);
    like($err, qr/ERROR:  08006: ia3 engine for backbone "default" went away/, "$what: the waiting statement gets an ERROR");
    like($err, qr/DETAIL:  The engine process did not answer for 4 s and was killed\./, "$what: with the reason");
    is((split /\n/, $out)[-1], $answer, "$what: the same session goes on");
    ok(wait_for_state($node, 'default', 'ready'), "$what: the next engine is ready");
    is($node->safe_psql('postgres', $restarts), $before + 1, "$what: the restart is counted");
    return;
}

my $waits = q{SELECT count(*) > 0 FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() AND wait_event_type = 'Extension'};
stop_during('scoring', q{SET ia3.max_input_tokens = 32768; SELECT ia3_predict(repeat('word ', 40000), ARRAY['good', 'bad'])},
    sub { wait_for_query($node, $waits) });
stop_during('training', $Ia3Test::ENDLESS, sub { wait_for_training($node) });
is($node->safe_psql('postgres', 'SELECT count(*) FROM ia3_stat_progress_train'), '0', 'no progress is left');
is($node->safe_psql('postgres', 'SELECT count(*) FROM ia3.adapters'), '0', 'no version is left');

# An engine that goes on in time is ready again, and the statement that waited is answered.
my $pid = engine_pid($node);
kill 'STOP', $pid;
my $query = start_query($node, "$classify;\n");
ok(wait_for_state($node, 'default', 'hung'), 'a stopped engine becomes hung');
kill 'CONT', $pid;
ok(wait_for_state($node, 'default', 'ready'), 'and ready again when it goes on');
my ($out, $err) = finish_query($query);
is("$out$err", "$answer\n", 'what waited is answered');
is(engine_pid($node), $pid, 'by the same engine');
like(slurp_file($node->logfile), qr/is no longer hung/, 'the log says so');

# Work that takes much longer than the timeout is not taken for a hang: its pieces are signs of life.
my $before = $node->safe_psql('postgres', $restarts);
my $started = time;
$node->psql('postgres',
    q{SET ia3.max_input_tokens = 32768; SET statement_timeout = '8s'; SELECT ia3_predict(repeat('word ', 40000), ARRAY['good', 'bad'])},
    stderr => \$err);
like($err, qr/statement timeout/, 'a long row takes long');
$node->psql('postgres', q{SET statement_timeout = '8s'; SELECT count(ia3_generate('hi ' || g, 1024, 1e30)) FROM generate_series(1, 200) g},
    stderr => \$err);
like($err, qr/statement timeout/, 'so do generations');
$node->psql('postgres', qq{SET ia3.max_input_tokens = 4096; SET statement_timeout = '8s';
    SELECT ia3_train('long', \$\$SELECT repeat(text || ' ', 500) AS text, label FROM shots\$\$, steps => 1000000)},
    stderr => \$err);
like($err, qr/statement timeout/, 'and training on long texts');
cmp_ok(time - $started, '>', 20, 'all longer than the timeout');
is(engine_pid($node), $pid, 'the engine is not killed');
is($node->safe_psql('postgres', $restarts), $before, 'nor restarted otherwise');

# Without a timeout nobody watches, and what was taken for hung is not any more.
kill 'STOP', $pid;
ok(wait_for_state($node, 'default', 'hung'), 'a stopped engine becomes hung');
$node->append_conf('postgresql.conf', 'ia3.hang_timeout = 0');
$node->reload;
ok(wait_for_state($node, 'default', 'ready'), 'but not if the watch is turned off');
sleep 5;
ok(process_runs($pid), 'a stopped engine is left alone then');
$started = time;
$node->stop('fast');
cmp_ok(time - $started, '<', 20, 'and does not keep the server from stopping');
ok(!process_runs($pid), 'which ends it');

done_testing();
