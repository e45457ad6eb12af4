#!/usr/bin/env perl
#
# run.pl: executes docs/sql.md, and checks that it is complete.
#
# Runs every ```sql block, in the order of the document and each in a session of its own, in a new database (ia3_docs) of the
# server that PGHOST, PGPORT and PGUSER specify. A comment "-- → value" after a statement is a line of the statement's
# output: all of them together must be what psql -At prints. The directory /srv/models stands for one inside the server's
# data directory, and the bundled backbone, in the setting ia3.backbones, for the one that the server has by default. Then it looks up the objects of the extension: every function (each overload), view, table and setting, and
# every argument that has a default, must occur in a block that has been executed.
#
# Prints "ok N - ..." and "not ok N - ..." with the reason on lines that start with "#". The blocks change settings of
# the server and create a role, so this is for a private cluster.
#
# Usage: run.pl [FILE]     (docs/sql.md); psql is $PSQL or the one in PATH

use strict;
use warnings;

use File::Basename qw(dirname);
use File::Temp qw(tempdir);

my $document = $ARGV[0] // dirname(__FILE__) . '/../../docs/sql.md';
my $psql = $ENV{PSQL} // 'psql';
my $database = 'ia3_docs';
my $tmp = tempdir(CLEANUP => 1);
my ($tests, $failures) = (0, 0);

sub ok
{
    my ($good, $name, $reason) = @_;
    $tests++;
    $failures++ unless $good;
    print $good ? '' : 'not ', "ok $tests - $name\n";
    print $reason =~ s/^/# /gmr, "\n" if !$good && length($reason // '');
    return $good;
}

sub read_file
{
    my ($path) = @_;
    open my $file, '<', $path or die "$path: $!\n";
    local $/;
    return <$file> // '';
}

# Runs a script; returns the exit status, standard output and standard error. The latter includes the parse trees that the
# server sends, which identify every function by its OID and so tell overloads apart.
sub run_script
{
    my ($db, $script) = @_;
    open my $file, '>', "$tmp/in" or die "$tmp/in: $!\n";
    print {$file} $script;
    close $file or die "$tmp/in: $!\n";
    local $ENV{PGOPTIONS} = '-c statement_timeout=120s -c client_min_messages=log -c debug_print_parse=on '
      . '-c debug_pretty_print=off';
    local $ENV{PGCLIENTENCODING} = 'UTF8';
    my $status = system("'$psql' -XAtq -v ON_ERROR_STOP=1 -d '$db' -f '$tmp/in' >'$tmp/out' 2>'$tmp/err' </dev/null");
    return ($status, read_file("$tmp/out"), read_file("$tmp/err"));
}

# Returns the rows of a query, which must not fail, as lists of columns.
sub query
{
    my ($db, $sql) = @_;
    my ($status, $out, $err) = run_script($db, "SET debug_print_parse = off;\n\\pset fieldsep '\\t'\n$sql\n");
    die "$sql\n$err" if $status;
    return map { [ split /\t/, $_, -1 ] } split /\n/, $out;
}

# Returns the ```sql blocks: heading and line number, and text.
sub blocks
{
    my ($path) = @_;
    my ($heading, $block, @blocks) = ('');
    my $line = 0;
    for (split /^/, read_file($path))
    {
        $line++;
        if ($block && /^```/) { push @blocks, $block; undef $block; }
        elsif ($block) { $block->{text} .= $_; }
        elsif (/^```sql\s*$/) { $block = { name => "$heading, line $line", text => '' }; }
        elsif (/^#+\s+(.*?)\s*$/) { $heading = $1; }
    }
    die "$path: a block does not end\n" if $block;
    return @blocks;
}

# Returns the script to run, and for each statement the lines that it should print (undef: not specified). A statement ends
# where a line ends with a semicolon outside $$.
sub script
{
    my ($text) = @_;
    my ($quoted, @expected, @lines) = (0, undef);
    for my $line (split /\n/, $text)
    {
        my $says = $line =~ s/\s*--\s*→ ?(.*)$// ? $1 : undef;
        $quoted ^= 1 & (() = $line =~ /\$\$/g);
        my $ends = !$quoted && $line =~ /;\s*(--.*)?$/;
        push @lines, $line if $line =~ /\S/;
        push @lines, '\echo @@' and push @expected, undef if $ends;
        die "output of no statement: $says\n" if defined $says && @expected < 2;
        $expected[-2] = ($expected[-2] // '') . "$says\n" if defined $says;
    }
    return (join("\n", @lines, ''), @expected);
}

my (%functions_seen, @texts);

sub run_block
{
    my ($block, $directory, $backbone) = @_;
    my ($script, @expected) = script($block->{text});
    $script =~ s{/srv/models}{$directory}g;
    $script =~ s{=ia3-mini\b}{=$backbone}g;
    my ($status, $out, $err) = run_script($database, $script);
    my @printed = split /^\@\@\n/m, $out, -1;
    my $reason = '';

    $functions_seen{$_}++ for $err =~ /:(?:funcid|winfnoid)\s+(\d+)/g;
    # a tree extends to the next message
    $err =~ s/^psql:\S+ LOG:  parse tree:.*?(?=^psql:|\z)//gms;
    $err =~ s/^psql:\S+ //gm;
    $reason = "$err$block->{text}" if $status;
    for my $i (0 .. $#expected)
    {
        next if $status || !defined $expected[$i] || ($printed[$i] // '') eq $expected[$i];
        $reason .= "expected:\n$expected[$i]printed:\n" . ($printed[$i] // '');
    }
    push @texts, $block->{text} =~ s/\s--.*$//gmr unless $status;
    ok($reason eq '', $block->{name}, $reason);
    return;
}

# Returns the text of every call of a function, from its opening parenthesis to the closing one.
sub calls
{
    my ($name) = @_;
    my $parentheses = qr/(\((?:'[^']*'|\$\$.*?\$\$|[^()'\$]|\$(?!\$)|(?1))*\))/s;
    my $calls = '';
    for my $text (@texts)
    {
        $calls .= "$1\n" while $text =~ /\b\Q$name\E\s*$parentheses/g;
    }
    return $calls;
}

sub in_blocks
{
    my ($name) = @_;
    return scalar grep { /(?<![\w.])\Q$name\E(?!\w)/ } @texts;
}

# Checks that no object of the extension is left out. Triggers cannot be called, nor does anybody call what types, operators
# and casts are made of. CALL shows no tree, nor do the functions behind views, which have the names of the views.
sub check_complete
{
    my $members = q{FROM pg_depend d WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
        AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'ia3')};
    my @functions = query($database, qq{SELECT oid, prokind, proname, oid::regprocedure,
            array_to_string(proargnames[pronargs - pronargdefaults + 1 : pronargs], ' ')
        FROM pg_proc WHERE oid IN (SELECT objid $members AND classid = 'pg_proc'::regclass)
            AND prorettype <> 'trigger'::regtype
            AND oid NOT IN (SELECT refobjid FROM pg_depend WHERE refclassid = 'pg_proc'::regclass AND classid IN
                ('pg_type'::regclass, 'pg_operator'::regclass, 'pg_cast'::regclass, 'pg_opclass'::regclass, 'pg_amproc'::regclass))
        ORDER BY 4;});
    my @relations = query($database, qq{SELECT c.oid::regclass FROM pg_class c
        WHERE c.oid IN (SELECT objid $members AND classid = 'pg_class'::regclass) AND relkind IN ('r', 'v') ORDER BY 1;});
    my @settings = query($database, q{SELECT name FROM pg_settings WHERE name LIKE 'ia3.%' ORDER BY 1;});
    my %is_relation = map { $_->[0] => 1 } @relations;
    my %options;

    die "the extension seems empty\n" unless @functions && @relations && @settings;
    for (@functions)
    {
        my ($oid, $kind, $name, $signature, $options) = @$_;
        my $seen = $kind eq 'p' || $is_relation{$name} ? in_blocks($name) : $functions_seen{$oid};
        ok($seen, "function $signature");
        $options{$name}{$_} = 1 for split ' ', $options;
    }
    for my $name (sort keys %options)
    {
        my $calls = calls($name);
        ok(scalar($calls =~ /\b$_\s*=>/), "$name, argument $_") for sort keys %{ $options{$name} };
    }
    ok(in_blocks($_->[0]), "table or view $_->[0]") for @relations;
    ok(in_blocks($_->[0]), "setting $_->[0]") for @settings;
    return;
}

$| = 1;
query('postgres', "DROP DATABASE IF EXISTS $database;\nCREATE DATABASE $database;");
my ($data) = query('postgres', 'SHOW data_directory;');
my $directory = "$data->[0]/ia3_docs";
# the program reads the empty row, or else COPY may fail because nobody does
query('postgres', "COPY (SELECT) TO PROGRAM 'cat >/dev/null; rm -rf $directory; mkdir $directory';");

my ($backbone) = query('postgres', 'SELECT reset_val FROM pg_settings WHERE name = $$ia3.backbones$$;');
$backbone->[0] =~ s/^default=// or die "the first backbone is not the default: $backbone->[0]\n";

my @blocks = blocks($document);
die "$document has no blocks\n" unless @blocks;
run_block($_, $directory, $backbone->[0]) for @blocks;
check_complete();
print "1..$tests\n";
exit($failures ? 1 : 0);
