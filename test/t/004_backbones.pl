# Several backbones, and changing them while they are in use: the new one is loaded beside the old one, takes over, and the
# old one is drained.

use strict;
use warnings;

use File::Basename qw(basename);
use File::Copy qw(copy);
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use Ia3Test;

# the cache of Hugging Face's hub, where the server looks for it
$ENV{HF_HUB_CACHE} = PostgreSQL::Test::Utils::tempdir();

my $node = ia3_node('backbones', conf => "ia3.backbones = ''\nia3.threads = 1\n");
create_shots($node);

my $models = PostgreSQL::Test::Utils::tempdir();

# Makes a copy of the backbone, with other weights if $options{different} is set.
sub copy_backbone
{
    my ($name, %options) = @_;
    mkdir "$models/$name" or die "mkdir: $!";
    copy($_, "$models/$name/") or die "copy: $!" for glob "$Ia3Test::BACKBONE/*";
    return unless $options{different};
    open my $file, '+<:raw', "$models/$name/model.safetensors" or die "open: $!";
    my ($middle, $size, $bytes) = (8 * int((-s $file) / 16), 4096, '');
    seek $file, $middle, 0 or die "seek: $!";
    read($file, $bytes, $size) == $size or die "read: $!";
    seek $file, $middle, 0 or die "seek: $!";
    # this flips signs, whether the numbers have two bytes or four
    print $file $bytes ^ ("\0\0\0\x80" x ($size / 4));
    close $file or die "close: $!";
    return;
}

copy_backbone('a');
copy_backbone('b');
copy_backbone('other', different => 1);

sub configure
{
    my ($list) = @_;
    $node->safe_psql('postgres', "ALTER SYSTEM SET ia3.backbones = '$list'");
    $node->reload;
    return;
}

sub value
{
    my ($sql) = @_;
    return $node->safe_psql('postgres', $sql);
}

# Returns the first error of a statement, with its SQLSTATE.
sub error_of
{
    my ($sql) = @_;
    my ($out, $err) = finish_query(start_query($node, "$sql;\n"));
    return $err =~ /ERROR:  (.*)/ ? $1 : "none, but: $out";
}

# Returns backbone, state and directory of all engines.
sub engines
{
    return value(qq{SELECT string_agg(backbone || ' ' || state || ' ' || replace(path, '$models/', ''), ', '
        ORDER BY backbone, state) FROM ia3_stat_engine});
}

sub wait_for_engines
{
    my ($expected, $name) = @_;
    my $seen;
    return if ok(wait_until(sub { ($seen = engines()) eq $expected }), $name);
    diag("engines: $seen, expected: $expected");
    return;
}

sub train
{
    my ($task, $steps, $more) = @_;
    return "SELECT ia3_train('$task', 'SELECT text, label FROM shots', steps => $steps, seed => 1"
      . (defined $more ? ", $more" : '') . ')';
}

sub best
{
    my ($task) = @_;
    return "SELECT choice, round(score::numeric, 3) FROM ia3_classify('$task', 'the app crashes') WHERE rank = 1";
}

# Starts sessions that predict continuously, each statement with another text; pgbench stops at an error.
sub start_load
{
    my ($task) = @_;
    my $load = { dir => PostgreSQL::Test::Utils::tempdir() };
    append_to_file("$load->{dir}/script",
        "\\set i random(1, 1000000)\nSELECT ia3_predict('$task', 'the app crashes when I open page ' || :i);\n");
    $load->{run} = IPC::Run::start(
        [ 'pgbench', '-n', '-c', '3', '-T', '300', '-f', "$load->{dir}/script", $node->connstr('postgres') ],
        '<', '/dev/null', '>', "$load->{dir}/out", '2>', "$load->{dir}/err", IPC::Run::timeout(300));
    return $load;
}

# Stops the load and returns its errors.
sub stop_load
{
    my ($load) = @_;
    my $alive = $load->{run}->pumpable;
    $load->{run}->kill_kill(grace => 5);
    my $errors = join '', grep { /ERROR|aborted|FATAL|error/ } split /^/, slurp_file("$load->{dir}/err");
    return $errors eq '' && !$alive ? 'it has ended' : $errors;
}

# Waits until the engine with this process ID has predicted rows.
sub engine_is_used
{
    my ($pid) = @_;
    return wait_until(sub { value("SELECT count(*) FROM ia3_stat_engine WHERE pid = $pid AND rows >= 5") eq '1' });
}

#
# A name on the hub, and the folder that the cache has for it: both mean the snapshot that refs/main names.
#
my $cached = "$ENV{HF_HUB_CACHE}/models--example--t5-mini";
mkdir $_ or die "mkdir: $!" for $cached, map { "$cached/$_" } qw(refs snapshots snapshots/1 snapshots/2);
append_to_file("$cached/refs/main", '2');
symlink $_, "$cached/snapshots/2/" . basename($_) or die "symlink: $!" for glob "$models/a/*";
configure("default=example/t5-mini:float32, folder=$cached:float32, missing=example/t5-large");
wait_for_engines("default ready example/t5-mini, folder ready $cached, missing failed example/t5-large",
    'backbones in the cache of the hub');
like(
    value(q{SELECT message FROM ia3_stat_engine WHERE backbone = 'missing'}),
    qr/could not find backbone "example\/t5-large": .* in the local cache of the Hugging Face hub, "\Q$ENV{HF_HUB_CACHE}\E"/,
    'one that is not there');

#
# Two names for one directory, and another backbone.
#
configure("default=$models/a:float32, twin=$models/a:float32, other=$models/other:float32");
is(value(train('t', 3)), '1', 'a task of the default backbone');
my $answer = value(best('t'));
is(value(train('on_twin', 3, q{backbone => 'twin'})), '1', 'a task of another name of the same directory');
is(value(best('on_twin')), $answer, 'is the same task');
is(value(q{SELECT count(DISTINCT digest), count(DISTINCT backbone_digest) FROM ia3.adapter}), '1|1', 'to the bit');
wait_for_engines('default ready a, other ready other, twin ready a', 'every name has its engine');

is(value("SET ia3.backbone = 'other'; " . train('on_other', 3)), '1', 'ia3.backbone chooses the backbone of a new task');
is(value(q{SELECT string_agg(task || ':' || backbone, ' ' ORDER BY task) FROM ia3.task}),
    'on_other:other on_twin:twin t:default', 'tasks keep their backbone');
isnt(value(best('on_other')), $answer, 'which answers otherwise');
is(value("SET ia3.backbone = 'other'; " . best('t')), $answer, 'the setting does not touch tasks that exist');
is(value(q{SELECT count(DISTINCT backbone_digest) FROM ia3.adapter}), '2', 'backbones differ');
my $bare = q{SELECT round(score::numeric, 4) FROM ia3_classify('the app crashes', ARRAY['billing', 'technical']) WHERE rank = 1};
isnt(value("SET ia3.backbone = 'other'; $bare"), value($bare), 'a call without a task follows the setting');
is(value(q{SELECT count(*) FROM (SELECT t, c.choice FROM unnest(ARRAY['t', 'on_twin', 'on_other']) t,
        ia3_classify(t, 'the app crashes') c WHERE c.rank = 1) x}), '3', 'one statement may use them all');
is(value(q{SELECT ia3_train('t', 'SELECT text, label FROM shots', steps => 1, init => 'on_twin', activate => false)}),
    '2', 'an adapter of the twin is a start for the default');
like(error_of(train('u', 1, q{init => 'on_other'})), qr/55000: adapter "on_other\@1" was trained on another backbone/,
    'one of another backbone is not');

#
# A backbone whose digest is not the one in its entry is not used.
#
my %digest = map { my $name = $_; $name => value("SELECT encode(backbone_digest, 'hex') FROM ia3_stat_engine WHERE backbone = '$name'") }
    qw(default other);
my $ready = q{SELECT ia3_ready() || ' ' || ia3_ready('default') || ' ' || ia3_ready('wrong') || ' ' || ia3_ready(NULL) || ' ' || ia3_ready('none')};
is(value($ready), 'true true false true false', 'ia3_ready says which backbones answer');
is(value("SET ia3.backbone = 'none'; SELECT ia3_ready()"), 'f', 'of the session');
configure("default=$models/a:float32#sha256=" . uc($digest{default}) . ", twin=$models/a:float32, wrong=$models/other:float32#sha256=$digest{default}, other=$models/other\@cpu:float32#sha256=$digest{other}");
wait_for_engines('default ready a, other ready other, twin ready a, wrong failed other', 'one backbone has another digest');
is(value($ready), 'true true false true false', 'and is not ready');
like(value(q{SELECT message FROM ia3_stat_engine WHERE backbone = 'wrong'}),
    qr/the backbone's digest is not the one that is expected: The digest is $digest{other}, and $digest{default} is expected, of "\Q$models\E\/other". \(Use the same files on every server.\)/,
    'which its state says');
like(error_of("SET ia3.backbone = 'wrong'; SELECT ia3_zero_shot('the app crashes', ARRAY['billing', 'technical'])"),
    qr/ia3 engine for backbone "wrong" could not start/, 'and queries do not use it');
is(value(best('t')), $answer, 'the others answer as before');
configure("default=$models/a:float32, twin=$models/a:float32, other=$models/other:float32");
wait_for_engines('default ready a, other ready other, twin ready a', 'without digests each is used');

#
# Queries are running all the time while dtype and path change.
#
# bfloat16 needs a processor that supports it; on others, auto means the type that was used before
my $auto = slurp_file('/proc/cpuinfo') =~ /\b(avx512_bf16|amx_bf16)\b/ ? 'bfloat16' : 'float32';
my $load = start_load('t');
my $pid = engine_pid($node);
ok(engine_is_used($pid), 'queries run');
my @swaps = (
    [ "default=$models/b:float32", 'path', 'float32' ],
    [ "default=$models/b:auto", 'dtype', $auto ],
    [ "default=$models/a:float32", 'both', 'float32' ]);
for my $swap (@swaps)
{
    my ($entry, $what, $dtype) = @$swap;
    my $before = engine_pid($node);
    configure("$entry, other=$models/other:float32");
    ok(wait_until(sub { engine_pid($node) ne $before }), "the engine is replaced: $what");
    ok(engine_is_used(engine_pid($node)), 'the new one is used');
    is(value(q{SELECT dtype FROM ia3_stat_engine WHERE backbone = 'default' AND state = 'ready'}), $dtype, 'as configured');
    ok(wait_until(sub { !process_runs($before) }), 'the old one leaves');
}
# If reloads are faster than the loading of engines, the last one counts.
for my $i (1 .. 6)
{
    configure('default=' . $models . ($i % 2 ? '/b' : '/a') . ":float32, other=$models/other:float32");
    sleep 0.1 * $i;
}
$node->safe_psql('postgres', 'ALTER SYSTEM SET ia3.max_batch_tokens = 8192');
$node->reload;
ok( wait_until(sub {
        engines() eq 'default ready a, other ready other'
          && value(q{SELECT count(*) FROM ia3_stat_engine WHERE pid IS NOT NULL}) eq '2'
    }), 'many reloads come to rest');
is(stop_load($load), '', 'no query has failed');
is(value(best('t')), $answer, 'and the answer is the old one');
my @processes = grep { /ia3_engine serve/ && /\Q$models\E/ } split /\n/, `ps -eo args`;
is(scalar @processes, 2, 'no engine is left over');

#
# A training run continues in an engine that is being drained.
#
is(value(train('plain', 40)), '1', 'a training that nothing happens to');
my $steady = start_query($node, train('plain', 40) . ";\n");
my $endless = start_query($node, "$Ia3Test::ENDLESS;\n");
ok(wait_for_query($node, 'SELECT count(*) = 2 FROM ia3_stat_progress_train WHERE step > 0'), 'trainings run');
my $old = engine_pid($node);
configure("default=$models/b:float32, other=$models/other:float32");
wait_for_engines('default draining a, default ready b, other ready other', 'the old engine drains while it trains');
is(value("SELECT state, message LIKE '%training runs and merges: _,%' FROM ia3_stat_engine WHERE pid = $old"), 'draining|t',
    'and says so');
is(value(best('t')), $answer, 'the new one answers');
my ($out, $err) = finish_query($steady);
is($out, "2\n", 'the training succeeds');
is(value(q{SELECT count(DISTINCT digest) FROM ia3.adapter WHERE task = 'plain'}), '1', 'with the result of an undisturbed one');
ok(process_runs($old), 'the old engine stays as long as something is under way');
# a backbone may have more than one draining engine
configure("default=$models/a:float32");
wait_for_engines('default draining a, default ready a', 'a removed backbone goes, the draining engine stays');
like(error_of("SET ia3.backbone = 'other';\n$bare"), qr/42704: ia3 backbone "other" does not exist/, 'it is not known any more');
like(error_of(best('on_other')), qr/42704: ia3 backbone "other" does not exist/, 'nor for its tasks');
value(q{SELECT pg_cancel_backend(pid) FROM ia3_stat_progress_train WHERE task = 'endless'});
($out, $err) = finish_query($endless);
like($err, qr/57014: canceling statement due to user request/, 'its training can be cancelled');
ok(wait_until(sub { !process_runs($old) }), 'then it leaves');
wait_for_engines('default ready a', 'and is shown no more');

# It also continues when the entry is removed.
configure("default=$models/a:float32, twin=$models/a:float32");
value(best('on_twin'));
my $query = start_query($node, train('late', 400, q{backbone => 'twin'}) . ";\n");
ok(wait_for_training($node), 'a training runs');
configure("default=$models/a:float32");
wait_for_engines('default ready a, twin draining a', 'a removed engine drains');
like(error_of(best('on_twin')), qr/42704: ia3 backbone "twin" does not exist/, 'new queries do not find it');
($out, $err) = finish_query($query);
is($out, "1\n", 'its training succeeds');
is($err !~ /ERROR/, 1, 'without an error');
wait_for_engines('default ready a', 'then it leaves');

#
# If a successor cannot be loaded, the old engine stays.
#
$load = start_load('t');
$old = engine_pid($node);
configure("default=$models/missing:float32");
wait_for_engines('default failed missing, default ready a', 'a successor fails');
is(engine_pid($node), $old, 'the old engine serves');
like(value(q{SELECT message FROM ia3_stat_engine WHERE state = 'failed'}), qr/\Q$models\E\/missing/, 'the reason is shown');
like(slurp_file($node->logfile), qr/WARNING:  ia3 engine "default" could not start: .*missing/, 'and logged');
is(value(best('t')), $answer, 'queries are answered');
is(stop_load($load), '', 'all of them');
kill 'KILL', $old;
is(value(best('t')), $answer, 'even when the old one crashes');
isnt(engine_pid($node), $old, 'it was started again');
is(value(q{SELECT path FROM ia3_stat_engine WHERE state = 'ready'}), "$models/a", 'as it was');
configure("default=$models/a:float32");
wait_for_engines('default ready a', 'taking the change back ends it');
configure("default=$models/missing:float32");
wait_for_engines('default failed missing, default ready a', 'once more');
rename "$models/b", "$models/missing" or die "rename: $!";
$node->reload;
wait_for_engines('default ready missing', 'what was put right takes over at the next reload');
is(value(best('t')), $answer, 'with the same answers');

#
# Moving a task to another backbone: it is trained there while the old version is in use, then activated.
#
configure("default=$models/a:float32, next=$models/other:float32");
$load = start_load('t');
is(value(train('t', 3, q{backbone => 'next', activate => false})), '3', 'a task is trained on another backbone');
is(value(best('t')), $answer, 'the old version serves');
my $new = value(best('t@3'));
isnt($new, $answer, 'the new one can be tried');
value(q{SELECT ia3_activate('t', 3)});
is(value(best('t')), $new, 'it is activated');
is(value(best('t@1')), $answer, 'the old one can still be named');
is(stop_load($load), '', 'and no query has failed');

# When the old name then refers to another backbone, its versions are rejected; they never give wrong answers.
value(q{
    CREATE TABLE seen (outcome text, n int);
    CREATE PROCEDURE watch(seconds float8) LANGUAGE plpgsql AS $$
    DECLARE
        started timestamptz := clock_timestamp();
        i int := 0;
        state text;
        reason text;
        outcome text;
    BEGIN
        WHILE clock_timestamp() < started + seconds * interval '1 s' AND NOT EXISTS (SELECT FROM seen WHERE n < 0) LOOP
            i := i + 1;
            BEGIN
                outcome := (SELECT round(score::numeric, 3) FROM ia3_classify('t@1', 'the app crashes') WHERE rank = 1);
            EXCEPTION WHEN OTHERS THEN
                GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, reason = MESSAGE_TEXT;
                outcome := state || ' ' || reason;
            END;
            INSERT INTO seen VALUES (outcome, i);
            COMMIT;
        END LOOP;
    END $$;
});
my @watchers = map { start_query($node, "CALL watch(60);\n") } 1 .. 2;
ok(wait_for_query($node, 'SELECT count(*) > 10 FROM seen'), 'a version is asked over and over');
$old = engine_pid($node);
configure("default=$models/other:float32, next=$models/other:float32");
ok(wait_until(sub { engine_pid($node) ne $old }), 'the default becomes another backbone');
ok(wait_for_query($node, q{SELECT count(*) > 4 FROM seen WHERE outcome LIKE '55000%'}), 'which is noticed');
value('INSERT INTO seen VALUES (NULL, -1)');
finish_query($_) for @watchers;
my ($score) = $answer =~ /\|(.*)/;
is(value('SELECT string_agg(DISTINCT outcome, E\'\n\' ORDER BY outcome) FROM seen'),
    join("\n", $score, '55000 adapter "t@1" was trained on another backbone'), 'answers are right or refused');
like(error_of(best('t@1')), qr/55000: adapter "t\@1" was trained on another backbone/, 'the version is refused');
is(value(best('t')), $new, 'the active one answers');
is(value(train('t', 3)), '4', 'its next version is trained where it is now');
is(value(q{SELECT recipe->>'backbone' FROM ia3.adapter WHERE task = 't' AND version = 4}), 'next', 'on its backbone');

# The server is stopped while all of this is in progress.
$query = start_query($node, "$Ia3Test::ENDLESS;\n");
ok(wait_for_training($node), 'a training runs');
configure("default=$models/a:float32, next=$models/a:float32");
my $started = time;
$node->stop('fast');
cmp_ok(time - $started, '<', 15, 'the server stops with engines that drain and load');
finish_query($query);
is_deeply([ sockets($node) ], [], 'and no socket');
@processes = grep { /ia3_engine serve/ && /\Q$models\E/ } split /\n/, `ps -eo args`;
is(scalar @processes, 0, 'nor engine is left');

done_testing();
