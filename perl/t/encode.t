use 5.010;
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use JSON::PP;
use Sidecar qw(clean_environment decode);
use WaferMon;

clean_environment();
my $sidecar = Sidecar->new;
my $client  = WaferMon->new(src => 'encode', $sidecar->to);
my @warnings;
local $SIG{__WARN__} = sub { push @warnings, @_ };
local $SIG{__DIE__}  = sub { push @warnings, "__DIE__ called: @_" };

# The ctx as JSON text, or undef where it is refused.
sub ctx_json {
    my ($value) = @_;
    $client->log_event('info', 'x', { v => $value }) or return;
    my ($line) = $sidecar->lines(1);
    decode($line);
    my ($json) = $line =~ /"ctx":\{"v":(.*)\}\}\}\z/ or die "no ctx in $line";
    return $json;
}

my $printed = 12;
{ my $text = "$printed" }
my $compared = '0042';
{ my $is = $compared == 42 }
my $text_with_flag = "42\x{100}";
chop $text_with_flag;
my $flag_set_by_hand = "a\xe9b";
{ no warnings; require Encode; Encode::_utf8_on($flag_set_by_hand) }

{ package Named;   use overload '""' => sub { "named $_[0]{name}" } }
{ package Dying;   use overload '""' => sub { die 'no text' } }
{ package Plain;   sub new { return bless {}, shift } }
{ package DyingTie; require Tie::Hash; our @ISA = 'Tie::StdHash'; sub FETCH { die 'no fetch' } }
tie my %dying_tie, 'DyingTie';
$dying_tie{a} = 1;
require Tie::Hash;
tie my %tie, 'Tie::StdHash';
$tie{a} = 1;

my @sent = (
    [ undef, 'null', 'undef' ],
    [ 0, '0' ], [ -1, '-1' ], [ 1.5, '1.5' ], [ 1e20, '1e+20' ], [ 1 / 4, '0.25' ], [ -1.25e-5, '-1.25e-05' ],
    [ 9_007_199_254_740_991, '9007199254740991' ],
    [ '12', '"12"' ], [ '', '""' ], [ '1e3', '"1e3"' ], [ 'nan', '"nan"' ], [ 'Infinity', '"Infinity"' ], [ '-', '"-"' ],
    [ $printed,        '12',     'a number that was printed' ],
    [ $compared,       '"0042"', 'text that was compared as a number' ],
    [ $text_with_flag, '"42"',   'digits with the UTF-8 flag' ],
    [ \1, 'true', '\1' ], [ \0, 'false', '\0' ], [ JSON::PP::true(), 'true', 'true' ], [ JSON::PP::false(), 'false', 'false' ],
    [ [], '[]', 'empty list' ], [ {}, '{}', 'empty hash' ], [ [ [ { a => [] } ] ], '[[{"a":[]}]]', 'nested' ],
    [ { "\xe9" => 1 }, qq({"\xc3\xa9":1}), 'key in Latin-1' ], [ { "a\n" => 1 }, '{"a\n":1}', 'key with a newline' ],
    [ "\x7f",               qq("\x7f"),             'DEL' ],
    [ "\xc2\xb5m",          qq("\xc2\xb5m"),        'bytes of UTF-8' ],
    [ "\xb5m",              qq("\xc2\xb5m"),        'bytes of Latin-1' ],
    [ "\x{b5}m\x{2013}",    qq("\xc2\xb5m\xe2\x80\x93"), 'characters' ],
    [ "\x{d800}\x{dfff}",   qq("\xef\xbf\xbd\xef\xbf\xbd"), 'lone surrogates' ],
    [ "\xed\xa0\x80",       qq("\xef\xbf\xbd"),     'a lone surrogate in bytes of UTF-8' ],
    [ chr(0x110000) . 'a',  qq("\xef\xbf\xbda"),    'beyond Unicode' ],
    [ "\x{ffff}",           qq("\xef\xbf\xbf"),     'a noncharacter is a character' ],
    [ "\xc0\xaf",           qq("\xc3\x80\xc2\xaf"), 'overlong UTF-8 is Latin-1' ],
    [ $flag_set_by_hand,    qq("a\xc3\xa9b"),       'the flag set on what is no UTF-8' ],
    [ (bless { name => 'x' }, 'Named'), '"named x"', 'an object that stringifies' ],
    [ qr/a/, undef, 'a pattern' ], [ \%tie, '{"a":1}', 'a tied hash' ],
);
for my $case (@sent) {
    my ($value, $json, $name) = @$case;
    my $got = ctx_json($value);
    $json //= JSON::PP->new->allow_nonref->encode("$value");
    is $got, $json, $name // "the value '$value'";
}

my $nan = 9**9**9 / 9**9**9;
my ($circle, $wide) = ([], [1]);
push @$circle, $circle;
$wide = [ ($wide) x 10 ] for 1 .. 40;    # 10**40 values, none of them deep
my $deep = 1;
$deep = [$deep] for 1 .. 64;
my @refused = (
    [ 9**9**9, 'inf' ], [ -9**9**9, '-inf' ], [ $nan, 'nan' ], [ { a => [$nan] }, 'nan inside' ],
    [ sub { }, 'code' ], [ \*STDOUT, 'a handle' ], [ \'text', 'a reference to text' ], [ \\1, 'a reference to a reference' ],
    [ Plain->new, 'an object' ], [ (bless {}, 'Dying'), 'an object that dies' ], [ \%dying_tie, 'a tied hash that dies' ],
    [ $circle, 'a circle' ], [ $wide, 'a bush' ], [ $deep, 'deeper than 64' ],
    [ 'x' x 65_536, 'too long' ], [ [ (1) x 40_000 ], 'too many' ], [ "\x01" x 20_000, 'too long once escaped' ],
);
for my $case (@refused) {
    my ($value, $name) = @$case;
    my $refused = $client->refused;
    is ctx_json($value), undef, "refused: $name";
    is $client->refused, $refused + 1, 'counted';
}
is ctx_json($deep->[0]), '[' x 63 . 1 . ']' x 63, '64 levels with the ctx';

# The limit to the byte: 65,536 with the newline.
{
    $client->log_event('info', '');
    my ($line) = $sidecar->lines(1);
    my $room = 65_536 - 1 - length $line;
    ok $client->log_event('info', 'x' x $room), 'a frame of 65,536 bytes';
    is length +($sidecar->lines(1))[0], 65_535, 'arrives';
    ok !$client->log_event('info', 'x' x ($room + 1)), 'one of 65,537 is refused';
}

# Number by its place, text by its place.
for my $case ([ '12', 12 ], [ ' 7.50 ', 7.5 ], [ '+3', 3 ], [ '.5', 0.5 ], [ '1e3', 1000 ], [ '007', 7 ]) {
    ok $client->log_metric('m', $case->[0]), "value '$case->[0]'";
    like +($sidecar->lines(1))[0], qr/"value":\Q$case->[1]\E\}/, 'is a number';
}
ok !$client->log_metric('m', $_), 'value refused: ' . ($_ // 'undef') for undef, '', 'x', '1,5', '0x10', '1e999', [], "1\n2";
ok !$client->log_metric("m", "\x{2013}1"), 'value refused: a dash';
$client->log_event(undef, undef);
is_deeply +($sidecar->frames(1))[0]{data}, { level => 'info', msg => '' }, 'undef as level and msg';
$client->log_event('info', bless { name => 'y' }, 'Named');
is +($sidecar->frames(1))[0]{data}{msg}, 'named y', 'an object as msg';
ok !$client->log_event('info', bless {}, 'Dying'), 'one that dies is refused';
ok !$client->log_metric('m', 1, tags => 'x'), 'tags that are no hash';
$client->log_metric('m', 1, tags => { a => 1, b => undef, c => "\xb5" });
is_deeply +($sidecar->frames(1))[0]{data}{tags}, { a => '1', b => '', c => "\xb5" }, 'tags are text';
{
    my $flagged = "name\x{100}";
    chop $flagged;
    $client->log_metric($flagged, 1, tags => { t => "\xc2\xb5" });
    is_deeply +($sidecar->frames(1))[0]{data}, { name => 'name', value => 1, tags => { t => "\xb5" } },
        'ASCII with the UTF-8 flag beside bytes';
}

# Fuzz: whatever it is, it arrives as JSON::PP reads it, or is refused.
srand 17;
my ($arrived, $turned_down) = (0, 0);
for my $round (1 .. 2000) {
    my $value = fuzz(0);
    my $json  = ctx_json($value);
    if (!defined $json) { $turned_down++; next }
    $arrived++;
    my $expected = expected($value);
    my $got      = JSON::PP->new->utf8->allow_nonref->decode($json);
    is_deeply $got, $expected, "fuzz $round" or last if !same($got, $expected);
}
ok $arrived > 1500, "fuzz: $arrived arrived, $turned_down refused";

is_deeply \@warnings, [], 'no warning, and no call of __DIE__';
done_testing;

sub same {
    my $json = JSON::PP->new->canonical->allow_nonref;
    my ($left, $right) = map { $json->encode($_) } @_;
    return $left eq $right;
}

sub fuzz {
    my ($depth) = @_;
    my $kind = int rand($depth < 4 ? 9 : 7);
    return int(rand 1e6) - 5e5 if $kind == 0;
    return rand(2) * 10**(int(rand 26) - 20) if $kind == 1;
    return join '', map { chr int rand 256 } 1 .. rand 12 if $kind == 2;
    return join '', map { chr(32 + int rand 95) } 1 .. rand 30 if $kind == 3;
    return join '', map { chr int rand 0x120000 } 1 .. rand 8 if $kind == 4;
    return (undef, \1, \0, '12', 'inf', 9**9**9)[ rand 6 ] if $kind == 5;
    if ($kind == 6) { my $bytes = join '', map { chr int rand 0x3000 } 1 .. rand 8; utf8::encode($bytes); return $bytes }
    return [ map { fuzz($depth + 1) } 1 .. rand 5 ] if $kind == 7;
    return { map { (join('', map { chr(97 + int rand 26) } 1 .. 4) => fuzz($depth + 1)) } 1 .. rand 5 };
}

sub expected {
    my ($value) = @_;
    return [ map { expected($_) } @$value ] if ref $value eq 'ARRAY';
    return { map { $_ => expected($value->{$_}) } keys %$value } if ref $value eq 'HASH';
    return $$value ? JSON::PP::true() : JSON::PP::false() if ref $value;
    return $value if !defined $value;
    return 0 + "$value" if !utf8::is_utf8($value) && JSON::PP->new->allow_nonref->encode($value) !~ /\A"/;
    my $text = $value;
    no warnings 'utf8';
    utf8::decode($text) if !utf8::is_utf8($text);
    $text =~ s/[\x{D800}-\x{DFFF}]|[^\x{0}-\x{10FFFF}]/\x{FFFD}/g;
    return $text;
}
