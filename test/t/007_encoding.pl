# Messages of engines in databases with different encodings: they are truncated between characters, never within one, and
# each database gets them in its own encoding.

use strict;
use warnings;

use Encode qw(decode FB_CROAK);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use Ia3Test;

$ENV{PGCLIENTENCODING} = 'UTF8';
my ($umlaut, $euro) = ("\xc3\xa4", "\xe2\x82\xac");
my $models = PostgreSQL::Test::Utils::tempdir();
my $node = ia3_node('encoding', conf => "ia3.threads = 1\n");
for my $encoding ('UTF8', 'LATIN1')
{
    $node->safe_psql('postgres', "CREATE DATABASE in_\L$encoding\E ENCODING '$encoding' LOCALE 'C' TEMPLATE template0");
    $node->safe_psql("in_\L$encoding", 'CREATE EXTENSION ia3');
}

my $path = "$models/K${umlaut}se $euro";
$node->safe_psql('in_utf8', qq{ALTER SYSTEM SET ia3.backbones = 'default=$Ia3Test::BACKBONE, short="$path", long=$Ia3Test::BACKBONE\@cuda'});

sub message
{
    my ($database, $backbone) = @_;
    return $node->safe_psql($database, "SELECT message FROM ia3_stat_engine WHERE backbone = '$backbone'");
}

# Returns standard error of a query that uses a backbone.
sub complaint
{
    my ($database, $backbone) = @_;
    my (undef, $err) = finish_query(start_query($node,
        "SET ia3.backbone = '$backbone';\nSELECT ia3_predict('text', ARRAY['a', 'b']);\n", database => $database));
    return $err;
}

sub is_utf8
{
    my ($bytes) = @_;
    return eval { decode('UTF-8', my $copy = $bytes, FB_CROAK); 1 };
}

# A long name in a message of the engine; with one of these, truncation after a fixed number of bytes would split a
# character.
for my $n (1 .. 3)
{
    my $directory = "$models/" . 'x' x $n . $euro x 80;
    mkdir $directory or die "mkdir: $!";
    $ENV{IA3_CUDA_MODULE} = "$directory/" . $euro x 80;
    append_to_file($ENV{IA3_CUDA_MODULE}, 'no module');
    $node->restart;
    ok(wait_for_state($node, 'long', 'failed'), "an engine that has much to say, $n");
    my $message = message('in_utf8', 'long');
    cmp_ok(length($message), '>=', 509, 'the message is as long as there is room');
    like($message, qr/$euro\z/, 'and ends with a whole character');
    is($node->safe_psql('in_utf8', q{SELECT convert_from(convert_to(message, 'UTF8'), 'UTF8') = message
        FROM ia3_stat_engine WHERE backbone = 'long'}), 't', 'in the server, too');
    my ($detail) = complaint('in_utf8', 'long') =~ /DETAIL:  (.*)/;
    is($detail, $message, 'a query gets it as its detail');
    like(message('in_latin1', 'long'), qr/\/x{$n}(\\u20AC|\/)+\z/, 'in LATIN1 there is no such character');
}

ok(wait_for_state($node, 'short', 'failed'), 'a short message');
like(message('in_utf8', 'short'), qr/\Q$path\E/, 'as it is');
like(message('in_latin1', 'short'), qr/\Q$models\E\/K${umlaut}se \\u20AC/, 'in LATIN1');
like(complaint('in_latin1', 'short'), qr/DETAIL:  .*\Q$models\E\/K${umlaut}se \\u20AC/, 'and as a detail');
is($node->safe_psql('in_latin1', q{SELECT octet_length(path) - char_length(path), strpos(path, 'ä') > 0
    FROM ia3_stat_engine WHERE backbone = 'short'}), '0|t', 'one byte a character');
# the server log has the messages unconverted
my @lines = grep { /could not start/ } split /^/, slurp_file($node->logfile);
cmp_ok(scalar(@lines), '>=', 4, 'the server log says so');
is(scalar(grep { !is_utf8($_) } @lines), 0, 'in whole characters');

# What is cut from long inputs does not depend on the encoding, in which offsets differ.
my $reading = qq{SET client_min_messages = warning; SET ia3.max_input_tokens = 48;
    CREATE TABLE reading AS SELECT repeat('Der Flu\xc3\x9f ist ${umlaut}ber die Ufer getreten. ', 30) AS context, q AS question, a AS label
        FROM (VALUES ('W${umlaut}chst der Flu\xc3\x9f', 'ja'), ('F${umlaut}llt Schnee', 'nein')) v(q, a);
    SELECT ia3_train('reading', 'SELECT * FROM reading', steps => 3, batch_size => 2, seed => 1,
        template => ARRAY['{context} Fr${umlaut}ge: {question}? Antwort (${umlaut}):']);
    SELECT count(DISTINCT c.score), string_agg(c.score::text, ' ' ORDER BY r.question, c.choice)
        FROM reading r, ia3_classify('reading', to_jsonb(r)) c;};
my $scores = $node->safe_psql('in_utf8', $reading);
like($scores, qr/^1\n4\|/, 'two questions behind a long context, in UTF-8');
is($node->safe_psql('in_latin1', $reading), $scores, 'and in LATIN1');
$node->stop;

done_testing();
