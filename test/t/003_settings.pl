# Which engines run: without preloading, with broken backbones, and after changes of the configuration.

use strict;
use warnings;

use File::Basename qw(basename);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use Ia3Test;

my $zero_shot = q{ia3_classify('the app crashes', ARRAY['billing', 'technical']) WHERE rank = 1};
my $classify = "SELECT choice FROM $zero_shot";

# Runs statements in one session with VERBOSITY verbose; returns output and errors.
sub session
{
    my ($node, $sql) = @_;
    return finish_query(start_query($node, $sql));
}

# Reloads the configuration and waits for a backbone. A query at once might still find an engine that has failed, because
# nobody knows when the supervisor looks.
sub reload_until_ready
{
    my ($node, $backbone) = @_;
    $node->reload;
    return wait_for_state($node, $backbone, 'ready');
}

#
# Without preloading: every function says so, nothing crashes, and the session continues.
#
my $node = ia3_node('plain', preload => 0);
my ($out, $err) = session($node, "LOAD 'ia3';\nSELECT 1;\nSHOW ia3.backbone;\n");
is($out, "1\ndefault\n", 'the library can be loaded late');
is($err, '', 'without complaints');
for my $call ($classify, q{SELECT ia3_train('t', 'SELECT 1, 2')}, q{SELECT * FROM ia3_tokenize('text')},
    'SELECT * FROM ia3_stat_engine', 'SELECT * FROM ia3_stat_progress_train')
{
    ($out, $err) = session($node, "$call;\nSELECT 'alive';\n");
    like($err, qr/ERROR:  55000: ia3 must be loaded via shared_preload_libraries/, "not preloaded: $call");
    like($err, qr/HINT:  Add ia3 to shared_preload_libraries/, 'with a hint');
    is($out, "alive\n", 'and no harm');
}
is($node->safe_psql('postgres', 'SELECT ia3_version() IS NOT NULL'), 't', 'the version needs no engine');
$node->stop;

#
# Preloaded and nothing else: the backbone that is installed with ia3.
#
my $bundled = $node->config_data('--sharedir') . '/ia3/ia3-mini';
is(join(' ', map { basename($_) } sort glob "$bundled/*"),
    'LICENSE NOTICE README.md config.json model.safetensors spiece.model tokenizer_config.json', 'only a checkpoint is installed');
$node = ia3_node('bundled', bundled => 1);
is($node->safe_psql('postgres', 'SHOW ia3.backbones'), 'default=ia3-mini', 'the default names it');
like($node->safe_psql('postgres', $classify), qr/^(billing|technical)$/, 'it answers');
is($node->safe_psql('postgres', 'SELECT backbone, path FROM ia3_stat_engine'), "default|$bundled", 'and is found where it is installed');
is($node->safe_psql('postgres', q{SELECT count(*) FROM ia3_check_backbone('ia3-mini') WHERE level <> 'info'}), '0',
    'there is nothing wrong with it');
$node->stop;

#
# With a backbone that works and two that cannot be loaded.
#
my $models = PostgreSQL::Test::Utils::tempdir();
symlink $Ia3Test::BACKBONE, "$models/a b\@c:d, e" or die "symlink: $!";
mkdir "$models/empty";
my $node_started = time;
$node = ia3_node('settings', conf => qq{
ia3.backbones = 'default=$Ia3Test::BACKBONE, gone=$models/gone, empty = $models/empty'
ia3.threads = 1
});

my $answer = $node->safe_psql('postgres', $classify);
like($answer, qr/^(billing|technical)$/, 'a broken backbone does not disturb the others');
is($node->safe_psql('postgres', q{SELECT device, dtype IN ('float32', 'bfloat16'), percent, model_type, parameters > 0,
        bytes > 0, octet_length(backbone_digest) FROM ia3_stat_engine WHERE backbone = 'default'}),
    'cpu|t|100|t5|t|t|32', 'the engine is described');
for my $broken ('gone', 'empty')
{
    # if a retry is in progress, the query waits for its end
    ($out, $err) = session($node, "SET ia3.backbone = '$broken';\n$classify;\nSELECT 'alive';\n");
    like($err, qr/ERROR:  55000: ia3 engine for backbone "$broken" could not start/, "backbone $broken has failed");
    like($err, qr/DETAIL:  .*\Q$models\E\/$broken/, 'and says why');
    is($out, "alive\n", 'the session lives on');
}
ok(wait_for_state($node, 'gone', 'failed'), 'its state is shown');
like($node->safe_psql('postgres', q{SELECT message FROM ia3_stat_engine WHERE backbone = 'gone'}),
    qr/\Q$models\E\/gone/, 'with the reason');

# Loading is retried at once and then after 1 s, 2 s, 4 s ..., so a backbone that cannot be loaded causes little load.
sub attempts
{
    my $n = () = slurp_file($node->logfile) =~ /ia3 engine "gone" could not start/g;
    return $n;
}
ok(wait_until(sub { attempts() >= 3 }), 'what failed is tried again');
cmp_ok(attempts(), '<=', 2 + log(1 + time - $node_started) / log(2), 'less and less often');

($out, $err) = session($node, "SET ia3.backbone = 'nobody';\n$classify;\n");
like($err, qr/ERROR:  42704: ia3 backbone "nobody" does not exist/, 'an unknown backbone');
like($err, qr/HINT:  .*ia3\.backbones/, 'with a hint');
($out, $err) = session($node, "SET ia3.max_input_tokens = 1;\nSET ia3.max_input_tokens = 32769;\nSET ia3.no_such_setting = 1;\nSET ia3.threads = 2;\n");
like($err, qr/22023: 1 is outside the valid range for parameter "ia3.max_input_tokens"/, 'a value out of range');
like($err, qr/22023: 32769 is outside the valid range for parameter "ia3.max_input_tokens"/, 'no more than an engine takes');
like($err, qr/55P02: parameter "ia3.threads" cannot be changed now/, 'an engine setting is not for sessions');
SKIP: {
    skip 'prefixes are reserved since PostgreSQL 15', 1 if $node->pg_version < 15;
    like($err, qr/invalid configuration parameter name "ia3.no_such_setting"/, 'the prefix is reserved');
}

# Long inputs keep an engine busy: how long they may be is not for everybody to say.
($out, $err) = session($node, "SET ia3.max_input_tokens = 4097;\nSET ia3.max_input_tokens = 4096;\nSHOW ia3.max_input_tokens;\n");
like($err, qr/22023: invalid value for parameter "ia3.max_input_tokens": 4097/, 'more than the limit');
like($err, qr/ia3\.max_input_tokens_limit is 4096/, 'which the detail names');
is($out, "4096\n", 'and as much as the limit');
$node->safe_psql('postgres', 'CREATE ROLE limited LOGIN');
($out, $err) = session($node, "SET ROLE limited;\nSET ia3.max_input_tokens_limit = 32768;\nALTER ROLE limited SET ia3.max_input_tokens = 30000;\n");
like($err, qr/42501: permission denied to set parameter "ia3.max_input_tokens_limit"/, 'a role cannot raise the limit');
like($err, qr/22023: invalid value for parameter "ia3.max_input_tokens": 30000/, 'nor set more for its next sessions');
$node->safe_psql('postgres', 'DROP ROLE limited');
($out, $err) = session($node, "SET ia3.max_input_tokens_limit = 8192;\nSET ia3.max_input_tokens = 8192;\nSHOW ia3.max_input_tokens;\n");
is($out, "8192\n", 'a superuser can');

# A problem can be fixed without a restart.
symlink $Ia3Test::BACKBONE, "$models/gone" or die "symlink: $!";
ok(reload_until_ready($node, 'gone'), 'a reload starts the engine of gone');
is($node->safe_psql('postgres', "SET ia3.backbone = 'gone'; $classify"), $answer, 'a repaired backbone is tried at a reload');

# Invalid lists change nothing.
my $before = engine_pid($node);
my %lists = (
    'no path' => [ 'default', qr/Expected "=" after the backbone name "default"/ ],
    'empty path' => [ 'default=', qr/A path is missing/ ],
    'no name' => [ '=ia3-mini', qr/A backbone name is missing/ ],
    'twice' => [ 'a=ia3-mini, a=ia3-mini', qr/The backbone name "a" occurs twice/ ],
    'relative' => [ 'a=models/x/y', qr/neither absolute nor a bare name nor a name on the Hugging Face hub/ ],
    'relative, with a dot' => [ 'a=./models', qr/neither absolute nor a bare name/ ],
    'parent' => [ 'a=..', qr/neither absolute nor a bare name/ ],
    'dtype' => [ 'a=ia3-mini:float64', qr/unknown dtype "float64"/ ],
    'fp16' => [ 'a=ia3-mini:float16', qr/T5 overflows in float16/ ],
    'device' => [ 'a=ia3-mini@gpu', qr/unknown device "gpu"; the known devices are cpu, cuda, cuda:N and auto/ ],
    'device of a path' => [ 'a=/models/t5@v2', qr/unknown device "v2".* A path that contains "@" must be quoted/ ],
    'no device' => [ 'a=ia3-mini@', qr/A device is missing at the end/ ],
    'no device before the dtype' => [ 'a=ia3-mini@:float32', qr/A device is missing before ":float32"/ ],
    'no first device' => [ 'a=ia3-mini@|cpu', qr/A device is missing before "\|cpu"/ ],
    'no last device' => [ 'a=ia3-mini@cpu|, b=ia3-mini', qr/A device is missing before ", b=ia3-mini"/ ],
    'number of a CPU' => [ 'a=ia3-mini@cpu:1', qr/unknown device "cpu:1"/ ],
    'long device' => [ 'a=ia3-mini@cuda:12345678901234567', qr/is longer than 15 bytes/ ],
    'half a device' => [ 'a=ia3-mini@cuda 1', qr/invalid device: "cuda 1"/ ],
    'GPU twice' => [ 'a=ia3-mini@cuda:1|cuda:0|cuda:01', qr/names the device "cuda:1" twice/ ],
    'a GPU without its number' => [ 'a=ia3-mini@cuda|cuda:1|cuda:0', qr/names the device "cuda:0" twice/ ],
    'a CPU and a GPU' => [ 'a=ia3-mini@cpu|cpu|cuda', qr/has the devices "cpu" and "cuda:0"; they must be of one kind/ ],
    'a GPU and a CPU' => [ 'a=ia3-mini@cuda:1|cpu', qr/has the devices "cuda:1" and "cpu"; they must be of one kind/ ],
    'int8 on a GPU' => [ 'a=ia3-mini@cuda|cuda:1:int8', qr/"cuda:0", but int8 is for the CPU; use bfloat16/ ],
    'auto in a list' => [ 'a=ia3-mini@cpu|auto', qr/"auto" in a list; it must stand alone/ ],
    'device after the dtype' => [ 'a=ia3-mini:float32@cpu', qr/unknown dtype "float32\@cpu"/ ],
    'short digest' => [ 'a=ia3-mini#sha256=12ab', qr/The SHA-256 of backbone "a" must have 64 hexadecimal digits/ ],
    'long digest' => [ 'a="/x"@cpu#sha256=' . 'a' x 65, qr/must have 64 hexadecimal digits/ ],
    'no digest' => [ 'a=ia3-mini:int8#sha256=' . 'g' x 64, qr/must have 64 hexadecimal digits/ ],
    'rest after the digest' => [ 'a=ia3-mini#sha256=' . 'a' x 64 . '@cpu', qr/Unexpected "\@cpu"/ ],
    'another digest' => [ 'a=ia3-mini@cpu#md5=' . 'a' x 32, qr/invalid device: "cpu"/ ],
    'too many devices' => [ 'a=ia3-mini@' . join('|', ('cpu') x 17), qr/has more than 16 devices/ ],
    'too many engines' => [ join(',', map { "b$_=ia3-mini\@" . join('|', ('cpu') x 11) } 1 .. 3), qr/at most 32 engines/ ],
    'open quote' => [ 'a="/x', qr/quoted path of backbone "a" does not end/ ],
    'rest' => [ 'a="/x" y', qr/Unexpected "y"/ ],
    'trailing comma' => [ 'a=ia3-mini,', qr/A backbone name is missing/ ],
    'too many' => [ join(',', map { "b$_=ia3-mini" } 1 .. 17), qr/at most 16 backbones/ ]);
for my $name (sort keys %lists)
{
    my ($list, $message) = @{ $lists{$name} };
    my ($status, $stdout, $stderr) = $node->psql('postgres', "ALTER SYSTEM SET ia3.backbones = '$list'");
    is($status, 3, "list refused: $name");
    like($stderr, qr/DETAIL:  .*$message/, 'with a detail');
}
$node->reload;
sleep 0.3;
is(engine_pid($node), $before, 'and the engine is still the same');

# A quoted path, an explicit device and dtype; 'default' stays, the others are removed.
my $gone = engine_pid($node, 'gone');
$node->safe_psql('postgres', qq{ALTER SYSTEM SET ia3.backbones = 'default=$Ia3Test::BACKBONE, odd="$models/a b\@c:d, e"\@cpu:float32'});
ok(reload_until_ready($node, 'odd'), 'a reload starts the engine of odd');
is($node->safe_psql('postgres', "SET ia3.backbone = 'odd'; $classify"), $answer, 'a new backbone is started at a reload');
is($node->safe_psql('postgres', q{SELECT path, device, dtype FROM ia3_stat_engine WHERE backbone = 'odd'}),
    "$models/a b\@c:d, e|cpu|float32", 'as the list says');
ok(wait_until(sub { !process_runs($gone) }), 'a removed one is stopped');
ok(wait_for_query($node, q{SELECT string_agg(backbone, ',' ORDER BY backbone) = 'default,odd' FROM ia3_stat_engine}),
    'and not shown any more');
($out, $err) = session($node, "SET ia3.backbone = 'gone';\n$classify;\n");
like($err, qr/42704: ia3 backbone "gone" does not exist/, 'nor known');
is(engine_pid($node), $before, 'an unchanged one is left alone');

# Changed settings replace the engines without an error for queries.
$node->safe_psql('postgres', 'ALTER SYSTEM SET ia3.threads = 2');
my $query = start_query($node, "$classify;\nSELECT pg_reload_conf();\nSELECT pg_sleep(0.5);\n$classify;\n");
($out, $err) = finish_query($query);
is($out, "$answer\nt\n\n$answer\n", 'a session gets over the replacement of its engine');
is($err, '', 'without an error');
ok(wait_until(sub { engine_pid($node) ne $before }), 'which is another process');

# No space for the socket: there is an error that says so, and no damage. A read-only directory stands for a full disk.
my $sockets = $node->data_dir . '/pg_stat_tmp';
chmod 0500, $sockets or die "chmod: $!";
kill 'KILL', engine_pid($node);
ok(wait_for_state($node, 'default', 'failed'), 'an engine that cannot listen has failed');
($out, $err) = session($node, "$classify;\nSELECT 'alive';\n");
like($err, qr/ERROR:  55000: ia3 engine for backbone "default" could not start/, 'a query gets an error');
like($err, qr/DETAIL:  .*could not listen on socket "pg_stat_tmp/, 'that says why');
is($out, "alive\n", 'the session lives on');
chmod 0700, $sockets or die "chmod: $!";
ok(reload_until_ready($node, 'default'), 'a reload starts the engine of default');
is($node->safe_psql('postgres', $classify), $answer, 'as soon as there is room, queries are answered');

# A query waits for an engine that is not ready no longer than start_timeout.
my $supervisor = supervisor_pid($node);
kill 'TERM', $supervisor;
wait_until(sub { !process_runs($supervisor) });
my $started = time;
($out, $err) = session($node, "SET ia3.start_timeout = '300ms';\n$classify;\n");
like($err, qr/ERROR:  57P03: ia3 engine for backbone "default" is not ready/, 'start_timeout limits the wait');
cmp_ok(time - $started, '<', 4, 'in time');
is($node->safe_psql('postgres', $classify), $answer, 'a patient query is answered');

# An empty list of backbones.
$node->safe_psql('postgres', q{ALTER SYSTEM SET ia3.backbones = ''});
$node->reload;
ok(wait_for_query($node, 'SELECT count(*) = 0 FROM ia3_stat_engine'), 'an empty list stops all engines');
($out, $err) = session($node, "$classify;\n");
like($err, qr/42704: ia3 backbone "default" does not exist/, 'and then there is none');
is_deeply([ sockets($node) ], [], 'nor a socket');

# An invalid list in the configuration file at server start: nothing stands in for it, no other model answers.
sub start_with
{
    my ($list) = @_;
    $node->stop;
    $node->append_conf('postgresql.auto.conf', "ia3.backbones = '$list'");
    $node->start;
    return;
}

sub list_engines
{
    return $node->safe_psql('postgres', q{SELECT backbone, path, device, state, pid, message FROM ia3_stat_engine ORDER BY backbone});
}

start_with('a');
like(slurp_file($node->logfile), qr/invalid value for parameter "ia3.backbones": "a"\n.*DETAIL:  Expected "="/, 'a broken list is reported at the start');
my $reason = 'The setting ia3.backbones is invalid. Expected "=" after the backbone name "a"; names consist of letters, digits, "_" and "-".';
is(list_engines(), "a|||failed||$reason", 'its backbone has failed with the reason');
$started = time;
($out, $err) = session($node, "SET ia3.backbone = 'a';\n$classify;\n");
like($err, qr/ERROR:  55000: ia3 engine for backbone "a" could not start\nDETAIL:  \Q$reason\E\nHINT:  Correct ia3.backbones/, 'a query says so');
($out, $err) = session($node, "$classify;\n");
like($err, qr/ERROR:  42704: ia3 backbone "default" does not exist\nDETAIL:  \Q$reason\E/, 'and for a backbone that cannot be found in the list');
cmp_ok(time - $started, '<', 4, 'at once');
start_with("default=$Ia3Test::BACKBONE, big=/srv/t5\@gpu, more=ia3-mini");
$reason = 'The setting ia3.backbones is invalid. Backbone "big" names an unknown device "gpu"; the known devices are cpu, cuda, cuda:N and auto. A path that contains "@" must be quoted.';
is(list_engines(), "big|/srv/t5||failed||$reason\ndefault|$Ia3Test::BACKBONE|cpu|failed||$reason", 'one mistake makes the whole list invalid');
($out, $err) = session($node, "$classify;\n");
like($err, qr/ERROR:  55000: ia3 engine for backbone "default" could not start\nDETAIL:  \Q$reason\E/, 'also for the entries before it');
start_with(', x');
like(list_engines(), qr/^default\|\|\|failed\|\|The setting ia3.backbones is invalid. A backbone name is missing/, 'a list without a name');
# a new supervisor does not know better
my $old = supervisor_pid($node);
kill 'TERM', $old;
wait_until(sub { !process_runs($old) });
ok(wait_until(sub { my $new = supervisor_pid($node); $new && $new ne $old }), 'the supervisor is restarted');
like(list_engines(), qr/^default\|\|\|failed/, 'and nothing has changed');
$node->append_conf('postgresql.auto.conf', "ia3.backbones = 'default=$Ia3Test::BACKBONE'");
ok(reload_until_ready($node, 'default'), 'a reload starts the engine of default');
is($node->safe_psql('postgres', $classify), $answer, 'after a reload with a correct list queries are answered');
is($node->safe_psql('postgres', 'SELECT count(*) FROM ia3_stat_engine'), '1', 'and nothing else is shown');

# No background worker for the supervisor.
my $others = "max_parallel_workers = 0\nmax_logical_replication_workers = 0\n";
$node->stop;
$node->append_conf('postgresql.auto.conf', "${others}max_worker_processes = 0\n");
$node->start;
$started = time;
($out, $err) = session($node, "$classify;\nSELECT state, message FROM ia3_stat_engine;\n");
my $why = 'There is no background worker for the supervisor of the engines; max_worker_processes is 0.';
like($err, qr/ERROR:  55000: ia3 engine for backbone "default" could not start\nDETAIL:  \Q$why\E\nHINT:  Increase max_worker_processes/,
    'without background workers an error says so');
cmp_ok(time - $started, '<', 4, 'at once');
is($out, "failed|$why\n", 'and the view');
$node->stop;
$node->append_conf('postgresql.auto.conf', "max_worker_processes = 1\n");
$node->start;
is($node->safe_psql('postgres', $classify), $answer, 'one worker is enough');
$node->stop;

# Single-user mode has no workers either.
my ($single_out, $single_err) = ('', '');
$started = time;
run_log([ 'postgres', '--single', '-D', $node->data_dir, 'postgres' ],
    '<', \"SELECT ia3_predict('the invoice is wrong', ARRAY['billing', 'technical']);\n", '>', \$single_out, '2>', \$single_err);
like($single_err, qr/could not start.*\n.*DETAIL:  Engines are not started in single-user mode/, 'single-user mode');
cmp_ok(time - $started, '<', 20, 'at once, too');

done_testing();
