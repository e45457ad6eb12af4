# Ia3Test: functions that the TAP tests share.
#
# A test creates its own cluster with ia3 preloaded (ia3_node), runs queries that are to wait in psql processes of their own
# (start_query, finish_query), and observes the engine through ia3_stat_engine and the process table.
package Ia3Test;

use strict;
use warnings;

use Exporter 'import';
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(sleep time);

our @EXPORT = qw(
  ia3_node create_shots engine_pid process_runs wait_until wait_for_query wait_for_state
  wait_for_training start_query finish_query backend_of supervisor_pid postmaster_pid sockets);

# The backbone that tests use (test/backbone).
our $BACKBONE = abs_path(dirname(__FILE__) . '/../backbone');

# A training run that takes far longer than any test waits.
our $ENDLESS = q{SELECT ia3_train('endless', 'SELECT text, label FROM shots', steps => 1000000, seed => 1)};

# Starts a cluster with ia3 preloaded, the tests' backbone and the extension created. %options: conf => lines for
# postgresql.conf, bundled => 1 to leave ia3.backbones alone, preload => 0 not to preload ia3, extension => 0 not to create
# the extension.
sub ia3_node
{
    my ($name, %options) = @_;
    my $node = PostgreSQL::Test::Cluster->new($name);
    my $preload = $options{preload} // 1;

    $node->init;
    $node->append_conf('postgresql.conf', "shared_preload_libraries = 'ia3'") if $preload;
    $node->append_conf('postgresql.conf', "ia3.backbones = 'default=$BACKBONE'") unless $options{bundled};
    $node->append_conf('postgresql.conf', $options{conf}) if defined $options{conf};
    $node->start;
    $node->safe_psql('postgres', 'CREATE EXTENSION ia3') if $options{extension} // 1;
    return $node;
}

# Creates the table shots with a few labelled rows.
sub create_shots
{
    my ($node, $database) = @_;
    $node->safe_psql($database // 'postgres', q{
        CREATE TABLE shots (text text, label text);
        INSERT INTO shots VALUES
            ('the invoice is wrong', 'billing'), ('please refund the second charge', 'billing'),
            ('I was charged twice', 'billing'), ('my card was declined', 'billing'),
            ('the app crashes on start', 'technical'), ('the page does not load', 'technical'),
            ('an error appears when I log in', 'technical'), ('the screen stays black', 'technical');
    });
    return;
}

# Returns the process ID of the engine that answers for a backbone; others may be loading or draining beside it.
sub engine_pid
{
    my ($node, $backbone) = @_;
    $backbone //= 'default';
    return $node->safe_psql('postgres', "SELECT pid FROM ia3_stat_engine WHERE backbone = '$backbone' ORDER BY state = 'ready' DESC LIMIT 1");
}

sub supervisor_pid
{
    my ($node) = @_;
    return $node->safe_psql('postgres',
        q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'ia3 supervisor'});
}

sub postmaster_pid
{
    my ($node) = @_;
    my ($pid) = split /\n/, slurp_file($node->data_dir . '/postmaster.pid');
    return $pid;
}

# True if the process exists and is not a zombie.
sub process_runs
{
    my ($pid) = @_;
    open my $stat, '<', "/proc/$pid/stat" or return 0;
    my $line = <$stat>;
    close $stat;
    return defined $line && $line !~ /\) [ZX] /;
}

# Calls $check every 50 ms until it is true; false after $seconds.
sub wait_until
{
    my ($check, $seconds) = @_;
    my $end = time + ($seconds // 180);
    while (time < $end)
    {
        return 1 if $check->();
        sleep 0.05;
    }
    return 0;
}

# Repeats a query until it returns true, as long as wait_until does.
sub wait_for_query
{
    my ($node, $sql) = @_;
    return wait_until(sub { $node->safe_psql('postgres', $sql) eq 't' });
}

sub wait_for_state
{
    my ($node, $backbone, $state) = @_;
    return wait_for_query($node,
        "SELECT count(*) = 1 FROM ia3_stat_engine WHERE backbone = '$backbone' AND state = '$state'");
}

# Waits until a training run has completed a step.
sub wait_for_training
{
    my ($node) = @_;
    return wait_for_query($node, 'SELECT count(*) >= 1 FROM ia3_stat_progress_train WHERE step > 0');
}

# Starts SQL in a psql of its own, which continues after errors; %options: database. All three streams are files, so psql
# does not depend on us while it runs.
sub start_query
{
    my ($node, $sql, %options) = @_;
    my $query = { dir => PostgreSQL::Test::Utils::tempdir() };

    append_to_file("$query->{dir}/in", $sql);
    $query->{run} = IPC::Run::start(
        [ 'psql', '-XAtq', '-v', 'VERBOSITY=verbose', '-d', $node->connstr($options{database} // 'postgres'),
            '-f', "$query->{dir}/in" ],
        '<', '/dev/null', '>', "$query->{dir}/out", '2>', "$query->{dir}/err", IPC::Run::timeout(240));
    return $query;
}

# Waits for the end of that psql; returns standard output and standard error.
sub finish_query
{
    my ($query) = @_;
    $query->{run}->finish;
    return (slurp_file("$query->{dir}/out"), slurp_file("$query->{dir}/err"));
}

# Returns the process ID of the backend that trains.
sub backend_of
{
    my ($node) = @_;
    return $node->safe_psql('postgres', 'SELECT min(pid) FROM ia3_stat_progress_train');
}

# Returns the sockets of engines in the data directory.
sub sockets
{
    my ($node) = @_;
    return glob $node->data_dir . '/pg_stat_tmp/ia3.*';
}

1;
