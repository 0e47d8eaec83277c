package WaferMon;

use 5.010;
use strict;
use warnings;

# Values come from the host program as they are: undef, text used as a number, surrogates. None of that is news for its
# standard error.
no warnings qw(uninitialized numeric misc utf8);    ## no critic (ProhibitNoWarnings)

use Errno qw(EAGAIN EINPROGRESS EINTR EWOULDBLOCK);
use Fcntl qw(F_GETFL F_SETFL O_NONBLOCK);
use Socket qw(AF_INET AF_UNIX SOCK_STREAM SOL_SOCKET SO_ERROR inet_aton pack_sockaddr_in pack_sockaddr_un);

our $VERSION = '0.1.0';

# Slim installations split these off the core; without them the clock ticks in seconds, and END cannot find the clients.
my ($MONOTONIC, $WEAKEN);

BEGIN {
    local ($@, $SIG{__DIE__});
    eval { require Time::HiRes; Time::HiRes->import('time') };
    $MONOTONIC = eval { my $id = Time::HiRes::CLOCK_MONOTONIC(); Time::HiRes::clock_gettime($id) && $id };
    $WEAKEN    = eval { require Scalar::Util; Scalar::Util->can('weaken') };
}

# A flag that the system lacks (Windows has no SIGPIPE to suppress) is 0; the socket is non-blocking in any case.
my ($NOSIGNAL, $DONTWAIT) = do {
    local ($@, $SIG{__DIE__});
    (eval { Socket::MSG_NOSIGNAL() } || 0, eval { Socket::MSG_DONTWAIT() } || 0);
};
my $WINDOWS_FIONBIO = 0x8004667E;

my $MAX_FRAME_BYTES = 65_536;
my $NUMBER_BYTES    = length ',"q":9007199254740991';
my $MAX_SILENCE_S   = 10;
my $ANY             = 9**9**9;
my $MAX_DEPTH       = 64;
my $MAX_CACHED_KEYS = 1_000;
my $MAX_LET_GO_OF   = 16;
my $MIN_BACKOFF_S   = 0.1;
my $MAX_BACKOFF_S   = 30;

my %DEFAULT = (
    delivery        => 'ack',
    buffer          => 1_000,
    overflow        => 'drop_oldest',
    connect_timeout => 0.2,
    write_timeout   => 0,
    close_timeout   => 2,
);
my %IS_OPTION = map { $_ => 1 } keys %DEFAULT, qw(src host port unix secret on_error);

my %LIVE;         # address -> weak reference, for END and for new threads
my @LET_GO_OF;    # the last clients of main that were destroyed, see DESTROY

# Of the message that is being encoded: how much it may still grow, and why it cannot be sent.
our ($ROOM_BYTES, $FAULT);

# --- Life ----------------------------------------------------------------------------------------------------------

sub new {
    my ($class, %option) = @_;
    for my $name (keys %option) {
        $IS_OPTION{$name} or _croak("no such option: '$name'");
    }
    length $ENV{MONITORING_TLS_CA}
        and _croak('MONITORING_TLS_CA is set, but this SDK speaks no TLS, as perl has none in its core. Send to a sidecar'
            . ' on this host, which forwards over TLS, and unset MONITORING_TLS_CA for this program');
    local ($ROOM_BYTES, $FAULT) = ($MAX_FRAME_BYTES);
    my $self = bless {
        %DEFAULT,
        (map { $_ => $option{$_} } grep { defined $option{$_} } keys %option),
        head      => '{"v":1,"src":' . _text(_checked_src($option{src})) . ',"ts":',
        ids       => '',           # of the innermost open span, as JSON
        open      => [],           # states of the open spans, innermost last
        inherited => scalar _parse_traceparent($ENV{TRACEPARENT}),
        of_main   => !caller 1,
        maker     => $$,
        state     => '',           # '': nothing tried yet
    }, $class;
    $self->{buffer} =~ /\A[1-9][0-9]*\z/ or _croak("buffer is a number of messages, 1 or more: not '$self->{buffer}'");
    $self->{overflow} =~ /\Adrop_(?:oldest|newest)\z/
        or _croak("overflow is 'drop_oldest' or 'drop_newest': not '$self->{overflow}'");
    $self->{delivery} =~ /\A(?:ack|send)\z/ or _croak("delivery is 'ack' or 'send': not '$self->{delivery}'");
    $self->{secret} //= $ENV{MONITORING_SECRET} // '';
    length $self->{secret} && $self->{delivery} eq 'send'
        and _croak("a secret (or MONITORING_SECRET) needs a session: leave out delivery => 'send', or the secret");
    $self->_resolve(\%option);
    $self->_start_afresh;
    $LIVE{ 0 + $self } = $self;
    $WEAKEN ? $WEAKEN->($LIVE{ 0 + $self }) : delete $LIVE{ 0 + $self };
    return $self;
}

sub state {    ## no critic (ProhibitBuiltinHomonyms)
    my ($self) = @_;
    return $self->{state} || 'DISCONNECTED';
}
sub sent    { return $_[0]{sent} }
sub dropped { return $_[0]{dropped} }
sub refused { return $_[0]{refused} }

sub flush {
    my ($self, $timeout_s) = @_;
    $self->_start_afresh if $$ != $self->{pid};
    return $self->_flush(_now() + ($timeout_s // $self->{close_timeout}), 1);
}

sub close {    ## no critic (ProhibitBuiltinHomonyms ProhibitAmbiguousNames)
    my ($self, $timeout_s) = @_;
    return $self->_close('closed', $timeout_s // $self->{close_timeout}, 1);
}

# What the main file keeps in a plain 'my' goes before END, when perl does not tell yet that the script ends, nor how. So
# a client that was made there is kept for END to say its goodbye (a bounded number, for scripts that make many).
sub DESTROY {
    my ($self) = @_;
    if ($self->{of_main} && $WEAKEN && $self->{pid} == $$ && $self->{state} ne 'CLOSED') {
        $self->{of_main} = 0;
        push @LET_GO_OF, $self;
        shift @LET_GO_OF if @LET_GO_OF > $MAX_LET_GO_OF;
        return;
    }
    delete $LIVE{ 0 + $self };
    return if $$ != $self->{pid};
    local ($@, $!, $?);
    $self->_close('closed', $self->{close_timeout}, 0);
    return;
}

END {
    my $status = $?;
    local ($@, $!, $?) = ('', 0, $status);
    for my $client (grep { $_ && $_->{pid} == $$ } values %LIVE) {
        $client->_close("exit $status", $client->{close_timeout}, 0, $status ? 'error' : 'ok');
    }
}

# A thread's copies of the clients are like a forked child's.
sub CLONE {
    $_->{pid} = 0 for grep { $_ } values %LIVE;
    return;
}

# --- Messages ------------------------------------------------------------------------------------------------------
#
# Each method writes its 'data' by hand around the values and leaves the envelope to _emit. An encoder that meets a value
# it cannot send notes that in $FAULT instead of dying: an eval around it would swallow the die of the host's own alarm.

sub log_event {
    my ($self, $level, $msg, $ctx) = @_;
    local ($ROOM_BYTES, $FAULT) = ($MAX_FRAME_BYTES);
    return $self->_emit('event',
              '{"level":' . _text($level // 'info') . ',"msg":' . _text($msg)
            . (defined $ctx && ',"ctx":' . _value($ctx, 1)) . '}');
}

sub log_metric {
    my ($self, $name, $value, %option) = @_;
    local ($ROOM_BYTES, $FAULT) = ($MAX_FRAME_BYTES);
    return $self->_emit('metric',
              '{"name":' . _text($name) . ',"value":' . _number($value)
            . (defined $option{unit} && ',"unit":' . _text($option{unit}))
            . (defined $option{tags} && ',"tags":' . _object($option{tags}, \&_text))
            . (defined $option{kind} && ',"kind":' . _text($option{kind})) . '}');
}

sub log_progress {
    my ($self, $job_id, $percent, %option) = @_;
    local ($ROOM_BYTES, $FAULT) = ($MAX_FRAME_BYTES);
    return $self->_emit('progress',
              '{"job_id":' . _text($job_id) . ',"percent":' . _number($percent)
            . (defined $option{status} && ',"status":' . _text($option{status}))
            . (defined $option{msg}    && ',"msg":' . _text($option{msg})) . '}');
}

sub log_resource {
    my ($self, %value) = @_;
    local ($ROOM_BYTES, $FAULT) = ($MAX_FRAME_BYTES);
    %value = $self->_own_resources if !%value;
    return $self->_emit('resource',
        _object(\%value, sub { ref $_[0] eq 'HASH' ? _object($_[0], \&_number) : _number($_[0]) }));
}

sub heartbeat {
    my ($self, %option) = @_;
    local ($ROOM_BYTES, $FAULT) = ($MAX_FRAME_BYTES);
    my $interval_s = $option{interval_s};
    return $self->_emit('heartbeat', defined $interval_s ? '{"interval_s":' . _number($interval_s) . '}' : undef);
}

sub start_span {
    my ($self, $name, %option) = @_;
    my $parent = $self->{open}[-1] || $self->{inherited};
    my %span   = (
        name      => $name,
        tid       => $parent ? $parent->{tid} : _random_hex(16),
        sid       => _random_hex(8),
        pid       => $parent && $parent->{sid},
        flags     => $parent && $parent->{flags},
        ts        => int 1000 * time,
        started_s => _now(),
        kind      => $option{kind},
        ctx       => $option{ctx},
    );
    push @{ $self->{open} }, \%span;
    $self->{ids} = _ids(\%span);
    $self->_send_span(\%span, undef, 'open', $span{ctx}) if $option{send_open};
    return WaferMon::Span->_new($self, \%span);
}

sub traceparent {
    my ($self) = @_;
    my $span = $self->{open}[-1] || $self->{inherited} or return;
    return _traceparent($span);
}

sub _end_span {
    my ($self, $span, %option) = @_;
    my $open = $self->{open};
    my ($at) = grep { $open->[$_] == $span } reverse 0 .. $#$open or return 0;
    splice @$open, $at, 1;
    $self->{ids} = @$open ? _ids($open->[-1]) : '';
    my @ctx = grep { defined } $span->{ctx}, $option{ctx};
    my $ctx = @ctx == 2 && ref $ctx[0] eq 'HASH' && ref $ctx[1] eq 'HASH' ? { %{ $ctx[0] }, %{ $ctx[1] } } : $ctx[-1];
    my $ms  = int(1e6 * (_now() - $span->{started_s}) + 0.5) / 1000;
    return $self->_send_span($span, $ms, $option{status} // 'ok', $ctx);
}

sub _send_span {
    my ($self, $span, $ms, $status, $ctx) = @_;
    local ($ROOM_BYTES, $FAULT) = ($MAX_FRAME_BYTES);
    return $self->_emit('span',
              '{"name":' . _text($span->{name})
            . (defined $ms && ',"duration_ms":' . _number($ms))
            . ',"status":' . _text($status)
            . (defined $span->{kind} && ',"kind":' . _text($span->{kind}))
            . (defined $ctx && ',"ctx":' . _value($ctx, 1)) . '}',
        _ids($span) . ($span->{pid} && qq(,"pid":"$span->{pid}")), $span->{ts});
}

# Builds the frame, and hands it over if it is a valid one.
sub _emit {
    my ($self, $type, $data, $ids, $ts) = @_;
    $self->_start_afresh if $$ != $self->{pid};
    my $frame = $self->{head} . ($ts // int 1000 * time) . ",\"type\":\"$type\"" . ($ids // $self->{ids})
        . (defined $data ? ",\"data\":$data}\n" : "}\n");
    # Pure ASCII text may have come with perl's UTF-8 flag; the frame as a whole is bytes.
    utf8::downgrade($frame, 1) or $FAULT //= 'not bytes';
    $FAULT //= 'longer than 65,536 bytes' if length $frame > $MAX_FRAME_BYTES - ($self->{session} && $NUMBER_BYTES);
    return $self->_send($frame) if !defined $FAULT;
    $self->{refused}++;
    $self->_debug("refused: $type: $FAULT");
    return 0;
}

sub _own_resources {
    my ($self) = @_;
    local $!;
    $self->_start_afresh if $$ != $self->{pid};
    my ($cpu_s, $now_s) = (_cpu_s(), _now());
    my ($then_cpu_s, $then_s) = @{ $self->{resources_at} };
    $self->{resources_at} = [ $cpu_s, $now_s ];
    my %value;
    $value{cpu} = int(1000 * ($cpu_s - $then_cpu_s) / ($now_s - $then_s) + 0.5) / 10 if $now_s > $then_s;
    $value{mem} = 1024 * $1 if _slurp('/proc/self/status') =~ /^VmRSS:\s+([0-9]+) kB/m;
    my $io = _slurp('/proc/self/io');
    $value{disk}{$1} = $2 while $io =~ /^((?:read|write)_bytes): ([0-9]+)/mg;
    return %value;
}

sub _cpu_s {
    my ($user_s, $system_s) = times;
    return $user_s + $system_s;
}

sub _slurp {
    my ($path) = @_;
    open my $fh, '<', $path or return '';
    local $/ = undef;
    return <$fh> // '';
}

# --- Trace context -------------------------------------------------------------------------------------------------

# W3C trace context: https://www.w3.org/TR/trace-context/#traceparent-header. What breaks a rule is ignored whole; a
# later version may carry more fields behind the four.
sub _parse_traceparent {
    my ($text) = @_;
    $text =~ /\A(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\z/s or return;
    return if $1 eq '00' && defined $5;
    return { tid => $2, sid => $3, flags => $4 };
}

sub _traceparent {
    my ($span) = @_;
    return join '-', '00', $span->{tid}, $span->{sid}, $span->{flags} // '01';
}

sub _ids {
    my ($span) = @_;
    return qq(,"tid":"$span->{tid}","sid":"$span->{sid}");
}

# Ids and jitter come from the system's generator, 1 KB at a time: rand() is the host's, who may have seeded it to get
# the same numbers each time. The pool is a process's own.
my ($pool, $pool_pid) = ('', 0);

sub _random {
    my ($bytes) = @_;
    if ($$ != $pool_pid || length $pool < $bytes) {
        local $!;
        $pool_pid = $$;
        open my $fh, '<:raw', '/dev/urandom';    # no such device: the read fails too
        my $read = sysread $fh, $pool, 1024;
        $pool = _scrambled(1024) if $read != 1024;
    }
    return substr $pool, 0, $bytes, '';
}

# For systems without /dev/urandom: the minimal standard generator, seeded with all that differs between processes.
my $scrambled_seed;

sub _scrambled {
    my ($bytes) = @_;
    $scrambled_seed = (($scrambled_seed // 0) + $$ * 65_537 + 1e6 * time + (0 + {})) % 2_147_483_646 + 1;
    return join '', map { chr(($scrambled_seed = $scrambled_seed * 48_271 % 2_147_483_647) >> 8 & 255) } 1 .. $bytes;
}

sub _random_hex {
    my ($bytes) = @_;
    my $hex;
    do { $hex = unpack 'H*', _random($bytes) } while $hex !~ /[^0]/;
    return $hex;
}

# --- JSON ----------------------------------------------------------------------------------------------------------
#
# An own encoder, for three reasons. JSON::PP costs four times as much a message and is no core module before perl 5.14.
# The XS ones print what is no JSON (nan, lone surrogates, the bytes of a script as Latin-1), disagree with each other
# on what a number is, and take longer to load than a short job's messages to encode. And so the same call makes the
# same frame on every host.

my %ESCAPE = (
    (map { chr($_) => sprintf '\u%04x', $_ } 0 .. 31),
    "\b" => '\b', "\f" => '\f', "\n" => '\n', "\r" => '\r', "\t" => '\t', '"' => '\"', '\\' => '\\\\',
);
my $BOOLEAN_CLASS =
    qr/\A(?:(?:JSON::PP|JSON::XS|Cpanel::JSON::XS|Types::Serialiser)::Boolean(?:Base)?|Mojo::JSON::_Bool|boolean)\z/;

my %key_cache;    # key -> its JSON with the colon; spares a third of the time of a typical ctx

sub _value {
    my ($value, $depth) = @_;
    return 'null' if !defined $value || ($ROOM_BYTES -= 2) < 0 && _fault('longer than 65,536 bytes');
    return _reference($value, $depth) if ref $value;

    # Number or text? As Mojo::JSON tells them: & of a number and '' is 0, of two strings it is ''. The pattern first,
    # as most text begins like no number (and like neither inf nor nan).
    if ($value =~ /\A[-+]?[0-9.INin]/ && !utf8::is_utf8($value) && length((my $empty = '') & $value)) {
        my $number = 0 + $value;
        return _finite($number) if $number eq $value;
    }

    # What _string does, without the call: it is three of four values.
    return qq("$value") if !($value =~ tr/ !#-[]-~//c) && ($ROOM_BYTES -= length $value) >= 0;
    return _string($value);
}

sub _reference {
    my ($value, $depth) = @_;
    return _fault('nested deeper than 64') if $depth > $MAX_DEPTH;
    my $type = ref $value;
    if ($type eq 'HASH') {
        $value = _untied($value, sub { +{ %$value } }) or return 'null' if tied %$value;
        return '{' . join(',', map { ($key_cache{$_} // _key($_)) . _value($value->{$_}, $depth + 1) } keys %$value) . '}';
    }
    if ($type eq 'ARRAY') {
        $value = _untied($value, sub { [@$value] }) or return 'null' if tied @$value;
        return '[' . join(',', map { _value($_, $depth + 1) } @$value) . ']';
    }
    if ($type eq 'SCALAR') {    # \1 and \0
        return $$value eq '1' ? 'true' : $$value eq '0' ? 'false' : _fault('a reference to a scalar');
    }
    return $$value ? 'true' : 'false' if $type =~ $BOOLEAN_CLASS;
    return _text($value) if $type eq 'Regexp' || defined &overload::Method && overload::Method($value, '""');
    return _fault("a reference of type $type");
}

# A copy of a tied container, whose methods may die.
sub _untied {
    my ($value, $copy) = @_;
    local ($@, $SIG{__DIE__});
    return eval { $copy->() } || do { _fault('a tied value died'); undef };
}

sub _object {
    my ($hash, $encode) = @_;
    return _fault('no hash') if ref $hash ne 'HASH';
    $hash = _untied($hash, sub { +{ %$hash } }) or return 'null' if tied %$hash;
    return '{' . join(',', map { ($key_cache{$_} // _key($_)) . $encode->($hash->{$_}) } sort keys %$hash) . '}';
}

sub _key {
    my ($key) = @_;
    my $json = _string($key) . ':';
    %key_cache = () if keys %key_cache >= $MAX_CACHED_KEYS;
    # Plain ones only: a hash does not tell bytes from characters.
    $key_cache{$key} = $json if $key !~ /[^ -~]/;
    return $json;
}

# What is text by its place in the message, whatever it is in the script.
sub _text {
    my ($value) = @_;
    return _string(ref $value ? _stringified($value) : $value // '');
}

# An object may make itself a string, and may die of it.
sub _stringified {
    my ($object) = @_;
    local ($@, $SIG{__DIE__});
    return eval { "$object" } // do { _fault('an object died as it was made a string'); '' };
}

# What is a number by its place; a script has it often as text, from a pattern or a database.
sub _number {
    my ($value) = @_;
    my $text = ref $value ? _stringified($value) : $value;
    return _fault('not a number')
        if $text !~ /\A\s*[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?\s*\z/
            && (utf8::is_utf8($text) || !length((my $empty = '') & $text) || 0 + $text ne $text);
    return _finite(0 + $text);
}

# What perl prints of a finite number is JSON, but that before perl 5.20 a locale of the host may make it 0,5.
sub _finite {
    my ($number) = @_;
    return _fault('not a finite number') if $number * 0 != 0;
    $number =~ tr/,/./;
    return $number;
}

sub _string {
    my ($string) = @_;
    return _fault('longer than 65,536 bytes') if ($ROOM_BYTES -= length $string) < 0;
    if ($string =~ tr/ !#-[]-~//c) {
        if (utf8::is_utf8($string) || $string =~ tr/\x80-\xff//) {
            $string = _characters($string);
            utf8::encode($string);
        }
        $string =~ s/([\x00-\x1f"\\])/$ESCAPE{$1}/g;
    }
    return qq("$string");
}

# Text as characters, whatever the script holds: characters, bytes of UTF-8, or else of Latin-1. What is no character
# becomes U+FFFD.
sub _characters {
    my ($text) = @_;
    utf8::encode($text) if !utf8::valid($text);    # a flag set by hand on what is no UTF-8
    utf8::decode($text) if !utf8::is_utf8($text);
    $text =~ s/[\x{D800}-\x{DFFF}]|[^\x{0}-\x{10FFFF}]/\x{FFFD}/g;
    return $text;
}

# Notes why the message cannot be sent; what stands in its place is never sent.
sub _fault {
    my ($why) = @_;
    $FAULT //= $why;
    $ROOM_BYTES = -1;    # and so the rest of the message is skipped
    return 'null';
}

# --- Buffer --------------------------------------------------------------------------------------------------------
#
# The queue holds what waits, and with receipts what is written and not acknowledged: 'written' frames at its head are on
# this connection, 'offset' bytes of the next one (below zero: of the hello). The first 'numbered' ones have a number,
# given as they are first written, so that numbers have no gaps: up to 'acked' they are settled, then come 'let_go' that
# had to leave the full queue unacknowledged, then those of the queue. A new connection gets the frames from their start.

# Hands a frame to the kernel, or keeps it. False where it is dropped.
sub _send {
    my ($self, $frame) = @_;
    local $!;
    my $queue = $self->{queue};
    if ($self->{state} eq 'CLOSED') {
        $self->{dropped}++;
        return 0;
    }
    if ($self->{busy}) {

        # A signal handler of the host logs in the middle of a write: leave it to that write. What is being written
        # stays, so the newest gives way.
        return $self->_drop(1) if @$queue >= $self->{buffer};
        push @$queue, $frame;
        return 1;
    }
    my $until_s = $self->{write_timeout} && _now() + $self->{write_timeout};
    if (@$queue >= $self->{buffer}) {
        $self->_drain($until_s, $self->{buffer} - 1);
        return $self->_drop(1) if @$queue >= $self->{buffer} && !$self->_drop_oldest;
    }
    push @$queue, $frame;
    $self->_drain($until_s, $ANY);
    return 1;
}

sub _drop {
    my ($self, $count) = @_;
    $self->{dropped} += $count;
    $self->{unreported} += $count;
    $self->_become('OVERFLOW', "the buffer of $self->{buffer} messages is full");
    return 0;
}

# Makes room; not of a half-written frame, nor of the report of what was dropped before. One that has a number may be
# there already: it is let go of, and counts as dropped once a welcome tells that it is not.
sub _drop_oldest {
    my ($self) = @_;
    return 0 if $self->{overflow} eq 'drop_newest';
    my $queue = $self->{queue};
    my $unsent = $self->{fh} && $self->{may_write} && !$self->{written};    # since a welcome told that it is not there
    if ($self->{numbered} && $self->{offset} <= 0 && $unsent && !$self->{let_go}) {
        shift @$queue;
        $self->{numbered}--;
        $self->{acked}++;
        $self->{lost}++;
        $self->_drop(1);
        return 1;
    }
    if ($self->{numbered} && !$unsent && ($self->{written} || $self->{offset} <= 0)) {
        shift @$queue;
        $self->{let_go}++;
        $self->{numbered}--;
        $self->{written}-- if $self->{written};
        return 1;
    }
    my $first = $self->{numbered} || ($self->{offset} > 0 ? 1 : 0);
    $first++ if $queue->[$first] eq $self->{report};
    return 0 if $first >= @$queue;
    splice @$queue, $first, 1;
    $self->{lost}++;
    $self->_drop(1);
    return 1;
}

# Writes the queue until all is written and at most $most of it lack a receipt (true), or until it would have to wait
# past $until_s (false).
sub _drain {
    my ($self, $until_s, $most) = @_;
    local ($self->{busy}, $!) = (1, 0);
    my $queue = $self->{queue};
    while (@$queue > $self->{written} || @$queue + $self->{let_go} > $most || $self->_report_is_due) {
        my $fh = $self->{fh} || $self->_connect or return 0;
        next if $self->_hear($fh);
        $self->_report if $self->{may_write} && $self->_report_is_due;
        my $writing = $self->{offset} < 0 || $self->{may_write} && @$queue > $self->{written};
        next if $writing && $self->_write($fh);
        return 0 if !$writing && $most == $ANY;    # for the welcome only who flushes waits
        return 0 if !_ready($fh, $self->_patience($until_s), 1, $writing);
    }
    return 1;
}

# Writes what the kernel takes at once; false if that is nothing.
sub _write {
    my ($self, $fh) = @_;
    my ($queue, $at, $offset) = @$self{qw(queue written offset)};
    my $chunk = $offset < 0 ? substr($self->{hello}, $offset) : '';
    if ($self->{may_write}) {
        for (my $next = $at; $next < @$queue && length $chunk < $MAX_FRAME_BYTES; $next++) {
            $self->_give_number($next) if $next >= $self->{numbered} && $self->{session};
            $chunk .= $queue->[$next];
        }
    }
    substr $chunk, 0, $offset, '' if $offset > 0;
    my $written = send $fh, $chunk, $NOSIGNAL | $DONTWAIT;
    if (!defined $written) {
        return 0 if _would_block();
        $self->_disconnect("$!");
        return 1;
    }
    $self->{owed_since_s} ||= _now() if $self->{session};
    $self->{offset} += $written;
    while ($self->{written} < @$queue && $self->{offset} >= length $queue->[ $self->{written} ]) {
        $self->{offset} -= length $queue->[ $self->{written} ];
        if ($self->{session}) { $self->{written}++ }
        else                  { $self->{sent}++; shift @$queue }
    }
    return 1;
}

sub _give_number {
    my ($self, $at) = @_;
    substr $self->{queue}[$at], -2, 0, ',"q":' . ($self->{acked} + $self->{let_go} + $self->{numbered} + 1);
    $self->{numbered}++;
    return;
}

# Not before the buffer has room again, or each message that is dropped would make one more.
sub _report_is_due {
    my ($self) = @_;
    return $self->{unreported} && @{ $self->{queue} } == $self->{written} && 2 * $self->{written} <= $self->{buffer};
}

sub _report {
    my ($self) = @_;
    local ($ROOM_BYTES, $FAULT) = ($MAX_FRAME_BYTES);
    $self->{report} = $self->{head} . int(1000 * time) . ',"type":"event","data":{"level":"warn","msg":"messages dropped",'
        . qq("ctx":{"dropped":$self->{unreported}}}}\n);
    push @{ $self->{queue} }, $self->{report};
    $self->{unreported} = 0;
    $self->_become('CONNECTED', 'the buffer has room again');
    return;
}

sub _flush {
    my ($self, $until_s, $patient) = @_;
    local $!;
    return !(@{ $self->{queue} } + $self->{let_go}) if $self->{busy} || $self->{state} eq 'CLOSED';
    $self->{retry_at_s} = 0;
    until ($self->_drain($until_s, 0)) {
        my $left_s = $until_s - _now();
        return 0 if $left_s <= 0 || !$patient && !$self->{fh};
        my $retry_in_s = $self->{fh} ? 0 : $self->{retry_at_s} - _now();
        select undef, undef, undef, $retry_in_s < $left_s ? $retry_in_s : $left_s if $retry_in_s > 0;
    }
    return 1;
}

# The goodbye goes when all before it is safe: with its receipt the sidecar forgets the session, and a frame that were
# sent again after that would be there twice.
sub _close {
    my ($self, $reason, $timeout_s, $patient, $status) = @_;
    $self->_start_afresh if $$ != $self->{pid};
    return 0 if $self->{state} eq 'CLOSED';
    $self->_end_span($_, status => $status) for grep { $_->{owner} == $$ } reverse @{ $self->{open} };
    my $until_s = _now() + $timeout_s;
    my $queue   = $self->{queue};
    if ($self->_flush($until_s, $patient) && $self->{sent}) {
        local ($ROOM_BYTES, $FAULT) = ($MAX_FRAME_BYTES);
        # A goodbye says that the source is finished, so a forked child says none: the job goes on.
        my $finished = $$ == $self->{maker};
        push @$queue, $self->{head} . int(1000 * time) . ',"type":"goodbye","data":{"reason":' . _text($reason) . "}}\n"
            if $finished;
        if    (!$self->_flush($until_s, $patient)) { shift @$queue if $finished }
        elsif ($self->{session})                   { $self->_part($until_s) }
    }
    my $left = @$queue + $self->{let_go};
    $self->{dropped} += $left;
    $self->_hang_up;
    @$queue = ();
    $self->{let_go} = 0;
    $self->_become('CLOSED', $reason);
    return $self->{session} ? $left + $self->{lost} : $left;
}

# --- Session -------------------------------------------------------------------------------------------------------

# Takes what the sidecar says. True if that was an answer, or the connection is gone: closed, or silent for too long.
#
# A peer that has closed still takes one write, and loses it: so this goes before each. Who asked for no receipt is never
# answered; what comes nevertheless is read, as unread bytes would turn our close into a reset.
sub _hear {
    my ($self, $fh) = @_;
    my $heard = defined recv $fh, my $bytes, 4096, $DONTWAIT;
    if ($heard ? !length $bytes : !_would_block()) {
        $self->_disconnect($heard ? 'closed by the sidecar' : "$!");
        return 1;
    }
    if (!$heard) {
        return 0 if !$self->{owed_since_s} || _now() - $self->{owed_since_s} < $MAX_SILENCE_S;
        $self->_disconnect("$self->{peer} did not answer for $MAX_SILENCE_S s");
        return 1;
    }
    return 0 if !$self->{session};
    my $answers = 0;
    $self->{inbox} .= $bytes;
    $answers += $self->_take_answer($1) while $self->{inbox} =~ s/\A([^\n]*)\n//;
    $self->{inbox} = '' if length $self->{inbox} > $MAX_FRAME_BYTES;
    return $answers;
}

sub _take_answer {
    my ($self, $line) = @_;
    my ($type) = $line =~ /"type"\s*:\s*"(welcome|ack|error)"/ or return 0;
    if ($type eq 'error') {
        $self->_refused_by_sidecar($line =~ /"reason"\s*:\s*"(\w+)"/);
        return 1;
    }
    my ($q) = $line =~ /"q"\s*:\s*([0-9]+)/;
    $self->_acknowledge($q);
    $self->_welcome if $type eq 'welcome';
    $self->{owed_since_s} = $self->{written} + $self->{let_go} && _now();
    return 1;
}

sub _acknowledge {
    my ($self, $q) = @_;
    my $most    = $self->{let_go} + ($self->{may_write} ? $self->{written} : $self->{numbered});
    my $settled = $q - $self->{acked};
    $settled = $most if $settled > $most;
    return if $settled <= 0;
    $self->{acked} += $settled;
    $self->{sent}  += $settled;
    $self->{backoff_s} = $MIN_BACKOFF_S;
    if ($settled <= $self->{let_go}) {
        $self->{let_go} -= $settled;
        return;
    }
    $settled -= $self->{let_go};
    splice @{ $self->{queue} }, 0, $settled;
    $self->{let_go} = 0;
    $self->{numbered} -= $settled;
    $self->{written} -= $settled if $self->{written};
    return;
}

# The session goes on. What was let go of and is not held there is lost.
sub _welcome {
    my ($self) = @_;
    $self->{denied} = 0;
    if (!$self->{may_write}) {
        $self->{may_write} = 1;
        if (my $lost = $self->{let_go}) {
            $self->{acked} += $lost;
            $self->{let_go} = 0;
            $self->{lost} += $lost;
            $self->_drop($lost);
        }
        $self->_become('CONNECTED', $self->{peer}) if !$self->{unreported};
    }
    return;
}

# Told once, even in an outage that was told already; then as any other outage.
sub _refused_by_sidecar {
    my ($self, $reason) = @_;
    $self->{state} = 'CONNECTED' if !$self->{denied}++;
    $self->_disconnect("$self->{peer} refuses this client: " . ($reason ne 'auth' ? $reason
        : length $self->{secret} ? 'wrong secret (or MONITORING_SECRET)' : 'it asks for a secret (or MONITORING_SECRET)'));
    return;
}

# How long to wait for a sidecar that owes an answer.
sub _patience {
    my ($self, $until_s) = @_;
    my $give_up_s = $self->{owed_since_s} ? $self->{owed_since_s} + $MAX_SILENCE_S : $until_s;
    return $until_s < $give_up_s ? $until_s : $give_up_s;
}

# Nothing more comes from here; the sidecar answers by closing.
sub _part {
    my ($self, $until_s) = @_;
    local ($self->{busy}, $!) = (1, 0);
    my $fh = $self->{fh} or return;
    shutdown $fh, 1;
    while (_ready($fh, $until_s, 1, 0)) {
        my $heard = defined recv $fh, my $bytes, 4096, $DONTWAIT;
        return if $heard ? !length $bytes : !_would_block();
    }
    return;
}

# --- Connection ----------------------------------------------------------------------------------------------------

# An empty buffer and no connection: of a new client, and of a forked child, whose parent keeps its own. Closing our
# copy of the descriptor says nothing to the peer.
sub _start_afresh {
    my ($self) = @_;
    $self->_hang_up;
    @$self{qw(pid queue sent dropped refused unreported report busy)} = ($$, [], 0, 0, 0, 0, '', 0);
    @$self{qw(session acked let_go lost numbered denied)} = ($self->{delivery} eq 'ack' ? _random_hex(16) : '', (0) x 5);
    @$self{qw(retry_at_s backoff_s)} = (0, $MIN_BACKOFF_S);
    $self->{resources_at} = [ _cpu_s(), _now() ];
    $self->{state} = '' if $self->{state} ne 'CLOSED';
    return;
}

sub _hang_up {
    my ($self) = @_;
    @$self{qw(offset written inbox owed_since_s)} = (0, 0, '', 0);
    CORE::close(delete $self->{fh}) if $self->{fh};
    return;
}

sub _disconnect {
    my ($self, $why) = @_;
    $self->_hang_up;
    # A connection that lasted is a good sign; one that breaks at once keeps the delay growing. With receipts, one of
    # these is the sign.
    $self->{backoff_s} = $MIN_BACKOFF_S if !$self->{session} && _now() - $self->{connected_at_s} > $self->{backoff_s};
    $self->_become('DISCONNECTED', $why);
    return;
}

# The connected socket, or false: it is not time yet, or failed. Exponential backoff with full jitter:
# https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
sub _connect {
    my ($self) = @_;
    my $now_s  = _now();
    my $wait_s = $self->{retry_at_s} - $now_s;
    return if $wait_s > 0 && $wait_s <= $MAX_BACKOFF_S;    # longer: a clock without a monotonic one was set back
    $self->{retry_at_s} = $now_s + $self->{backoff_s} * unpack('n', _random(2)) / 65_536;
    $self->{backoff_s} *= 2;
    $self->{backoff_s} = $MAX_BACKOFF_S if $self->{backoff_s} > $MAX_BACKOFF_S;

    my $fh = $self->_socket;
    my $connected = $fh && connect $fh, $self->{address};
    if ($fh && !$connected && ($! == EINPROGRESS || $! == EWOULDBLOCK && $^O eq 'MSWin32')) {
        my $error = _ready($fh, $now_s + $self->{connect_timeout}, 0, 1) ? getsockopt($fh, SOL_SOCKET, SO_ERROR) : undef;
        $! = defined $error ? unpack 'i', $error : Errno::ETIMEDOUT();
        $connected = $! == 0;
    }
    if (!$connected) {
        $self->_become('DISCONNECTED', "$self->{peer}: $!");
        return;
    }
    $self->{fh} = $fh;
    $self->{connected_at_s} = $now_s;
    $self->{may_write} = 1;
    $self->_greet if $self->{session};
    $self->_become('CONNECTED', $self->{peer}) if $self->{may_write} && !$self->{unreported};
    return $fh;
}

# Frames follow the hello at once where nothing can be held of the session, so that a short script waits only when it
# closes. Else the welcome tells what to send; and where there is a secret, whether it is the right one.
sub _greet {
    my ($self) = @_;
    local ($ROOM_BYTES, $FAULT) = ($MAX_FRAME_BYTES);
    $self->{hello} = $self->{head} . int(1000 * time) . ',"type":"hello","data":{'
        . (length $self->{secret} ? '"secret":' . _text($self->{secret}) . ',' : '')
        . ($$ == $self->{maker} ? '' : '"goodbye":false,') . qq("session":"$self->{session}"}}\n);
    $self->{offset}       = -length $self->{hello};
    $self->{owed_since_s} = _now();
    $self->{may_write}    = !length $self->{secret} && !($self->{acked} + $self->{let_go} + $self->{numbered});
    return;
}

# A socket that does not block and is closed on exec. Not on 0 to 2: where the host closed those, what it prints would
# go into the stream of frames. Nagle's algorithm stays on, so that small writes may merge.
sub _socket {
    my ($self) = @_;
    local $^F = 2;
    my ($fh, @low);
    do {
        push @low, $fh;
        undef $fh;
        socket $fh, $self->{family}, SOCK_STREAM, 0 or return;
    } while fileno $fh <= 2;
    if ($^O eq 'MSWin32') {
        ioctl $fh, $WINDOWS_FIONBIO, pack 'L!', 1 or return;
    }
    else {
        fcntl $fh, F_SETFL, O_NONBLOCK | fcntl $fh, F_GETFL, 0 or return;
    }
    return $fh;
}

sub _would_block { return $! == EAGAIN || $! == EWOULDBLOCK || $! == EINTR }

sub _ready {
    my ($fh, $until_s, $reading, $writing) = @_;
    while ($until_s && (my $left_s = $until_s - _now()) > 0) {
        vec(my $bits = '', fileno $fh, 1) = 1;
        my ($in, $out) = ($reading ? $bits : undef, $writing ? $bits : undef);
        my $ready = select $in, $out, undef, $left_s;
        return 1 if $ready > 0;
        return 0 if $ready < 0 && $! != EINTR;
    }
    return 0;
}

# An argument goes before the environment, and of the same rank a Unix socket before TCP. Names are looked up here and
# never again, as a resolver may take seconds.
sub _resolve {
    my ($self, $option) = @_;
    local ($@, $SIG{__DIE__});
    my $by_tcp_option = defined $option->{host} || defined $option->{port};
    my $unix = $option->{unix} // ($by_tcp_option ? undef : $ENV{MONITORING_UNIX_SOCKET});
    if (length $unix) {
        @$self{qw(family peer)} = (AF_UNIX, $unix);
        # sun_path is 104 bytes on the BSDs, 108 on Linux, with a NUL at its end.
        $self->{address} = length $unix < 108 && eval { pack_sockaddr_un($unix) }
            or _croak("no path of a Unix socket: '$unix'");
        return;
    }
    my ($host, $port) = map { length $_->[0] ? $_->[0] : length $_->[1] ? $_->[1] : $_->[2] }
        [ $option->{host}, $ENV{MONITORING_TCP_HOST}, '127.0.0.1' ], [ $option->{port}, $ENV{MONITORING_TCP_PORT}, 17_000 ];
    $port =~ /\A[1-9][0-9]{0,4}\z/ && $port < 65_536
        or _croak("port (or MONITORING_TCP_PORT) is a number from 1 to 65535: not '$port'");
    $self->{peer} = "$host:$port";
    if ($host =~ /:/) {
        my $ip = eval { Socket::inet_pton(Socket::AF_INET6(), $host) };
        @$self{qw(family address)} = (Socket::AF_INET6(), Socket::pack_sockaddr_in6($port, $ip)) if $ip;
    }
    elsif (my $ip = inet_aton($host)) {
        @$self{qw(family address)} = (AF_INET, pack_sockaddr_in($port, $ip));
    }
    $self->{address} or _croak("cannot resolve host (or MONITORING_TCP_HOST) '$host': give an address, such as 127.0.0.1");
    return;
}

# --- Odds and ends -------------------------------------------------------------------------------------------------

sub _checked_src {
    my ($src) = @_;
    my $characters = ref $src ? '' : _characters($src // '');
    $characters =~ /\A[^\x00-\x1f\x7f-\x9f]{1,128}\z/
        or _croak("src is missing or invalid: name this program, as in WaferMon->new(src => 'db-loader'),"
            . ' in 1 to 128 characters, none of them a control character');
    return $characters;
}

# Tells of a state once, when it begins: an outage that lasts stays quiet.
sub _become {
    my ($self, $state, $why) = @_;
    return if $state eq $self->{state} || $self->{state} eq 'CLOSED';
    return if $state eq 'DISCONNECTED' && $self->{state} eq 'OVERFLOW';
    $self->{state} = $state;
    $self->_debug("$state: $why");
    if ($self->{on_error} && ($state eq 'DISCONNECTED' || $state eq 'OVERFLOW')) {
        local ($@, $SIG{__DIE__});
        eval { $self->{on_error}->($state, $why) };
    }
    return;
}

sub _debug {
    my ($self, $text) = @_;
    return if !$ENV{WAFERMON_DEBUG};
    local ($\, $,, $!);
    print {*STDERR} "wafermon: $self->{src}: $text\n";
    return;
}

sub _croak {
    my ($why) = @_;
    require Carp;
    local $Carp::CarpLevel = 1;
    Carp::croak("WaferMon: $why");
}

# Monotonic where there is such a clock, for every timer; time() is for stamps.
sub _now { return defined $MONOTONIC ? Time::HiRes::clock_gettime($MONOTONIC) : time }

# --- Spans ---------------------------------------------------------------------------------------------------------

package WaferMon::Span;    ## no critic (ProhibitMultiplePackages): one file to drop in

sub _new {
    my ($class, $client, $span) = @_;
    $span->{owner} = $$;
    return bless { client => $client, span => $span, error => $@, exit => $? }, $class;
}

sub traceparent { return WaferMon::_traceparent($_[0]{span}) }
sub tid         { return $_[0]{span}{tid} }
sub sid         { return $_[0]{span}{sid} }

# A forked child has a copy of the span: it lives in it, and its parent ends it.
sub end {
    my ($self, %option) = @_;
    return 0 if $self->{span}{owner} != $$;
    return $self->{client}->_end_span($self->{span}, %option);
}

# Perl shows a destructor no more of a die that unwinds than $@, or $? when nobody catches it.
sub DESTROY {
    my ($self) = @_;
    my $dying = length $@ && $@ ne $self->{error} || $? > 0 && $? < 256 && $? != $self->{exit};
    local ($@, $!, $?);
    $self->end(status => $dying ? 'error' : 'ok');
    return;
}

1;

__END__

=encoding utf8

=head1 NAME

WaferMon - events, metrics, progress and traces of a script, sent to the wafermon sidecar of its host

=head1 SYNOPSIS

    use lib '/opt/wafermon/perl';    # one file, core modules only, perl 5.10 or later
    use WaferMon;

    my $m = WaferMon->new(src => 'db-loader');

    $m->log_event('info', 'file loaded', { lot => 'L1234.7', rows => 12_345 });
    $m->log_metric('load_time', 12.25, unit => 'ms', tags => { tool => 'EQP07' });
    $m->log_progress('nightly-load', 42.5);

    my $span = $m->start_span('parse');
    # ...
    $span->end;

    $m->close;

=head1 DESCRIPTION

A call writes one line of JSON to the sidecar over a TCP or Unix socket, and costs some 10 to 30 microseconds. Monitoring never
stands in the way of the script:

=over

=item *

No method but C<new> dies. None prints, sets a signal handler, C<$SIG{PIPE}> included, or changes C<$@>, C<$!>, C<$?> or
the sequence of C<rand>.

=item *

No call waits for the sidecar longer than C<write_timeout>, by default not at all. What cannot be written at once is kept
in a buffer and goes with a later call. There is no thread and no timer: between calls nothing happens.

=item *

A message that would be no valid frame is refused: never sent, and counted.

=back

=head2 When the sidecar is away

Messages wait in the buffer. Calls try to connect again after a delay that grows from 0.1 to 30 s (exponential backoff
with full jitter); such an attempt takes at most C<connect_timeout>, and none at all where the sidecar is on this host. When
the buffer is full, the oldest message, or as configured the newest, is dropped and counted. Once the buffer has room again,
the count goes out as a C<warn> event, "messages dropped", with C<dropped> in its ctx.

=head2 Receipts

A message is safe once the sidecar has it in its journal and says so, and until then it is kept in the buffer: what was lost
with a connection, or with a sidecar that was killed, is sent again, and what is there already is not stored twice. No
call waits for a receipt but C<flush> and C<close>, and the end of the script. A sidecar that owes one for 10 s is left, and
connected to again.

The buffer holds what waits and what is not acknowledged yet. A script that logs more than that in one go runs ahead of the
receipts, which take some milliseconds. With C<drop_oldest> it then lets go of the oldest ones that are written: these are
lost only if the connection breaks before their receipt, and count as dropped when that turns out. With C<drop_newest> a
message that was taken is never let go of: the call returns false instead, or, with C<write_timeout>, waits for a receipt.

With C<< delivery => 'send' >> nothing is acknowledged. What the kernel has taken is then out of the script's hands: a
sidecar that is killed with unread messages in its socket loses these.

=head1 METHODS

=head2 new

    my $m = WaferMon->new(src => 'db-loader', %options);

Dies with a message that tells what to do if an option is missing, invalid or unknown. It does not connect; the first
message does.

=over

=item src

Names the script. Required: 1 to 128 characters, none of them a control character.

=item host, port

The TCP address of the sidecar. Default: C<MONITORING_TCP_HOST> and C<MONITORING_TCP_PORT>, else 127.0.0.1 and 17000. A name
is looked up here, once, which may take as long as your resolver does; one that does not resolve is an error.

=item unix

Path of the sidecar's Unix socket. It goes before C<host> and C<port>, as C<MONITORING_UNIX_SOCKET> goes before
C<MONITORING_TCP_*>; any of the three arguments goes before the environment.

=item delivery

C<ack> (default): each message is kept until the sidecar has acknowledged it, see L</Receipts>. C<send>: until the kernel has
it.

=item secret

What the sidecar asks for, if it does. Default: C<MONITORING_SECRET>. A wrong one is an outage that C<on_error> is told of; the
messages wait. It needs C<< delivery => 'ack' >>, and is sent as it is: to a sidecar on this host.

=item buffer

Messages kept while the sidecar is away or slow, and until they are acknowledged, 1 or more. Default: 1000.

=item overflow

What goes when the buffer is full: C<drop_oldest> (default) or C<drop_newest>. The oldest that has a number and has not gone
out yet cannot be let go of behind others that have: where there are only such, the newest is refused.

=item connect_timeout, write_timeout, close_timeout

Seconds, fractions allowed. Longest wait for a connection (0.2), in a call for a slow sidecar (0), and in C<flush>, C<close>
and at the end of the script (2).

=item on_error

    on_error => sub { my ($state, $why) = @_; ... }

Called when an outage begins (C<DISCONNECTED>), and when its first message is dropped (C<OVERFLOW>): once each an outage;
also when the sidecar refuses the secret. A die in it is ignored.

=back

Where C<MONITORING_TLS_CA> is set, C<new> dies: perl has no TLS in its core, and this SDK does not send in plain behind your
back. Send to a sidecar on the same host; it forwards over TLS.

=head2 log_event

    $m->log_event($level, $msg);
    $m->log_event($level, $msg, \%ctx);

C<$level> is C<debug>, C<info>, C<warn>, C<error> or C<fatal>; C<$msg> is text.

This and all other methods that send return true if the message was written or is kept, and false if it was refused or
dropped.

=head2 log_metric

    $m->log_metric($name, $value, unit => 'ms', tags => { tool => 'EQP07' }, kind => 'gauge');

C<$value> is a number, or text that looks like one. C<kind> is C<gauge> (default), C<counter> (the value is an increment) or
C<histogram> (one observation). Values of C<tags> are always sent as text.

=head2 log_progress

    $m->log_progress($job_id, $percent, status => 'running', msg => '3 of 12 files');

C<$percent> is 0 to 100; C<status> is C<running> (default), C<done> or C<failed>.

=head2 log_resource

    $m->log_resource;
    $m->log_resource(cpu => $percent_of_one_core, mem => $bytes, disk => \%numbers, net => \%numbers);

Without values it sends this process's own: C<cpu> since the last such call (or C<new>), and, where there is F</proc>, C<mem>
(resident) and C<disk> (C<read_bytes> and C<write_bytes> since the process started).

=head2 heartbeat

    $m->heartbeat(interval_s => 60);

The script is alive; C<interval_s> says when the next heartbeat is due. It sends one: call it in your loop.

=head2 start_span

    my $span = $m->start_span($name, kind => 'client', ctx => \%ctx, send_open => 1);
    $span->end(status => 'ok', ctx => \%more);

A span of a trace: it is sent when it ends, with its start and duration. A span started while another is open in this
client is its child. Messages sent while a span is open carry its ids.

With C<send_open> it is also sent when it begins, as C<open>: so it is seen while it lasts, and of a script that is killed the
trace shows where it was. That is a second message, so it is for what takes seconds.

A span that goes out of scope ends itself: as C<error> if a C<die> unwinds, else as C<ok>. Perl shows no more of a C<die>
than C<$@>; one that was caught inside the span, with nothing evaluated since, looks the same. C<end> says it for certain.
A second C<end> does nothing and returns false.

C<< $span->tid >> and C<< $span->sid >> are its ids, C<< $span->traceparent >> both in the W3C form.

=head2 traceparent

The W3C C<traceparent> of the innermost open span, else the one that was inherited, else C<undef>. A trace goes on in
another script through the environment; where C<TRACEPARENT> is set, spans without an open span above them become children
of the span it names (an invalid one is ignored):

    {
        local $ENV{TRACEPARENT} = $span->traceparent;
        system 'Rscript', 'yield.R';
    }

=head2 flush

    my $done = $m->flush($timeout_s);

Writes what is in the buffer, connecting again if need be, and waits for the receipts, for at most C<$timeout_s> (default:
C<close_timeout>). True if all of it is acknowledged (with C<< delivery => 'send' >>: written).

=head2 close

    my $left = $m->close($timeout_s);

Ends open spans, flushes, says goodbye and closes. Returns how many messages that a call had taken are not acknowledged,
those that a full buffer lost before included: 0 says that all are safe. With C<< delivery => 'send' >>, how many it could not
hand over now. They count as dropped; so does a message after C<close>.

A client that is not closed says goodbye when it is destroyed, or at the end of the script, with the exit status as the
reason (C<exit 0>); a client that the main file let go of says it at the end too. There it does not wait for a sidecar that
is away. A script that is killed by a signal, or ends in C<exec> or C<POSIX::_exit>, says no goodbye, and so counts as
missing: have a handler of your own call C<exit> where a signal is a regular end.

=head2 state

C<CONNECTED>, C<DISCONNECTED> (also before the first message, and after an outage until the sidecar's welcome), C<OVERFLOW>
(messages were dropped, and are not yet reported) or C<CLOSED>.

=head2 sent, dropped, refused

Numbers of messages of this process: acknowledged, or with C<< delivery => 'send' >> handed to the kernel (reports and
goodbye included); lost to a full or closed buffer; not valid. Receipts are read as messages are sent.

=head1 DATA

Numbers stay numbers and text stays text: C<42> is sent as C<42>, C<"0042"> as C<"0042">. Perl itself takes text for a number
once it was used as one and reads the same either way (C<"42"> after C<< $x == 42 >>); C<"$x"> and C<0 + $x> make it certain.
C<\1> and C<\0> are true and false, as are the boolean objects of the JSON modules. Objects are sent as their text if they
overload it.

Text may be characters or bytes. Bytes beyond ASCII are read as UTF-8, and where they are not that, as Latin-1. What is no
Unicode character is sent as U+FFFD.

Refused are: infinity and NaN, code, handles and other objects, what is nested deeper than 64, circular structures, and
messages longer than 65,536 bytes (with receipts 65,515, as each gets a number).

=head1 FORK AND THREADS

A forked child has a session, a connection, an empty buffer and counters of its own from its first call on; the parent's stay
untouched, and the child says no goodbye: one would say that the source is finished. Messages of the child belong to the span
that was open at the fork; the parent ends it. The same holds for a new thread.

=head1 ENVIRONMENT

C<MONITORING_TCP_HOST>, C<MONITORING_TCP_PORT>, C<MONITORING_UNIX_SOCKET>, C<MONITORING_SECRET>, C<MONITORING_TLS_CA>: see L</new>.
C<TRACEPARENT>: see L</traceparent>. C<WAFERMON_DEBUG=1> prints a line on standard error when the state changes or a message is
refused, with the reason.

=head1 RECIPES

With L<Mojo::Log>:

    $app->log->on(message => sub { my ($log, $level, @lines) = @_; $m->log_event($level, "@lines") });

With L<Log::Any>, in F<Log/Any/Adapter/WaferMon.pm>:

    package Log::Any::Adapter::WaferMon;
    use parent 'Log::Any::Adapter::Base';
    use Log::Any::Adapter::Util ();

    my %level = (trace => 'debug', notice => 'info', warning => 'warn',
        map { $_ => 'fatal' } qw(critical alert emergency));

    sub structured {
        my ($self, $level, $category, @args) = @_;
        my %ctx = map { %$_ } grep { ref eq 'HASH' } @args;
        $self->{client}->log_event($level{$level} || $level, join(' ', grep { !ref } @args), { %ctx, category => $category });
    }
    for my $method (Log::Any::Adapter::Util::detection_methods()) {
        no strict 'refs';
        *$method = sub { 1 };
    }
    1;

    # in the script
    Log::Any::Adapter->set('WaferMon', client => $m);

To count what a job did not get through:

    my $left = $m->close;
    warn "$left messages were not delivered\n" if $left;

=head1 LIMITS

Without L<Time::HiRes> (a package of its own on slim systems) times have whole seconds. There is no TLS.

=cut
