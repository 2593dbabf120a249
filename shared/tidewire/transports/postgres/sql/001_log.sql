-- The log in Postgres: a counter per partition, the records, the ids of recent events, and the functions on them.
--
-- Migrations run with search_path = <the prefix's schema>, pg_temp, and every function keeps that path: no file names
-- the schema, and nothing in a caller's path can shadow one of our tables. Times are in ms since 1970.

do $$
begin
  if current_setting('server_version_num')::integer < 140000 then
    raise exception 'Tidewire needs Postgres 14 or newer, not %', current_setting('server_version');
  elsif current_setting('server_encoding') <> 'UTF8' then
    raise exception 'Tidewire needs a database in UTF8, not %: others cannot hold every JSON text',
      current_setting('server_encoding');
  end if;
end $$;

create table partitions (
  name    text primary key,
  epoch   bigint not null,             -- when the partition was created: a wiped log has another one
  seq     bigint not null default 0,   -- the last offset; a column, since a sequence is not rolled back
  "check" text   not null default '',  -- of the record at `seq`
  time    bigint not null,             -- of the record at `seq`, or the log's start
  first   bigint not null default 1,   -- the offset of the oldest record kept
  trim_at bigint not null default 0    -- when to search for records to delete
) with (fillfactor = 50);              -- each publish rewrites the row, in the same page if there is space

create table records (
  partition text   not null,
  epoch     bigint not null,
  "offset"  bigint not null,
  "check"   text   not null,
  time      bigint not null,
  event     text   not null,           -- JSON; as text, because jsonb rewrites numbers and refuses \u0000
  primary key (partition, epoch, "offset")
);

create table ids (
  partition text   not null,
  key       bytea  not null,           -- SHA-256 of the event's key, which may exceed an index entry
  epoch     bigint not null,
  "offset"  bigint not null,
  "check"   text   not null,
  time      bigint not null,
  primary key (partition, key)
);
create index ids_by_time on ids (time);

-- The settings of realtime_publish. Every Tidewire process stores its own here when it starts.
create table settings (
  only_row    boolean primary key default true check (only_row),
  types       text[]  not null default '{}',  -- those with a partition of their own
  user_shards integer not null default 0,
  age         bigint  not null default 86400000,
  most        bigint  not null default 0,
  idempotency bigint  not null default 86400000
);
insert into settings default values;

create type place as (
  partition text, epoch bigint, "offset" bigint, "check" text, time bigint, duplicate boolean
);

create function now_ms() returns bigint language sql volatile as $$
  select floor(extract(epoch from clock_timestamp()) * 1000)::bigint  -- now() is the start of the transaction
$$;

-- The second key of this log's advisory lock (1953064037, ...).
create function log_key() returns integer language sql stable as $$
  select quote_ident(current_schema())::regnamespace::oid::integer
$$;

-- Lock all partitions until the transaction ends. Offsets are then in commit order, and transactions that publish to
-- several partitions in opposite orders wait for each other instead of deadlocking.
create function open_partition(part text) returns partitions language plpgsql set search_path from current as $$
declare
  p partitions;
begin
  perform pg_advisory_xact_lock(1953064037, log_key());
  select * into p from partitions where name = part for update;
  if not found then
    -- New, or its counter was lost: the tables may hold rows of a history that has ended.
    delete from records where partition = part;
    delete from ids where partition = part;
    insert into partitions (name, epoch, time) select part, t, t from now_ms() as t returning * into p;
  end if;
  return p;
end $$;

-- Delete records beyond the retention, and old ids: at most 5,000 of each per call; the next call continues.
create function trim_partition(p partitions, age bigint, most bigint, idempotency bigint) returns partitions
language plpgsql set search_path from current as $$
declare
  bound constant bigint := 5000;
  now bigint := now_ms();
  low bigint := greatest(p.first, case when most > 0 then p.seq - most + 1 end);
  high bigint := p.seq + 1;
  middle bigint := low;  -- the oldest is tried first: usually it is young enough
  forgotten bigint;
begin
  if now >= p.trim_at then
    p.trim_at := now + least(1000, age / 10);
    while low < high loop  -- times never decrease along the offsets
      perform from records where partition = p.name and epoch = p.epoch and "offset" = middle and time > now - age;
      if found then high := middle; else low := middle + 1; end if;
      middle := (low + high) / 2;
    end loop;
    delete from ids where ctid = any (array(
      select ctid from ids where time <= now - idempotency order by time limit bound
    ));
    get diagnostics forgotten = row_count;
    if forgotten = bound then p.trim_at := now; end if;
  end if;
  if low > p.first + bound then
    low := p.first + bound;
    p.trim_at := now;
  end if;
  if low > p.first then
    delete from records where partition = p.name and epoch = p.epoch and "offset" >= p.first and "offset" < low;
    p.first := low;
  end if;
  return p;
end $$;

-- Append events to one partition: each at most once, at contiguous offsets. One row per event, in their order.
-- (Plans are cached while tables grow from empty: a sequential scan would be kept for a minute. Disabling it raises
-- the estimated costs, for which the server would compile statements that run for microseconds.)
create function append_to(part text, keys text[], events text[], age bigint, most bigint, idempotency bigint)
returns setof place language plpgsql set search_path from current set enable_seqscan = off set jit = off as $$
declare
  p partitions := open_partition(part);
  now bigint := now_ms();  -- after waiting for the lock
  last bigint := p.seq;
  hashes bytea[] := array(
    select sha256(convert_to(key, 'UTF8')) from unnest(keys) with ordinality as k(key, n) order by n
  );
  offsets bigint[] := array_fill(null::bigint, array[cardinality(keys)]);
  checks text[] := array_fill(null::text, array[cardinality(keys)]);
  item record;
  known ids;
begin
  p.time := greatest(p.time, now);
  for item in
    select key, hash, n, min(n) over (partition by hash) as first
    from unnest(keys, hashes) with ordinality as k(key, hash, n) order by n
  loop
    select * into known from ids
      where partition = part and key = item.hash and epoch = p.epoch and time > now - idempotency;
    if found then
      return next (part, p.epoch, known."offset", known."check", known.time, true)::place;
    elsif item.first < item.n then
      return next (part, p.epoch, offsets[item.first], checks[item.first], p.time, true)::place;
    else
      p.seq := p.seq + 1;
      p."check" := left(encode(sha1(convert_to(p."check" || item.key, 'UTF8')), 'hex'), 8);
      if p."check" = '00000000' then p."check" := '00000001'; end if;  -- zero means "unknown"
      offsets[item.n] := p.seq;
      checks[item.n] := p."check";
      return next (part, p.epoch, p.seq, p."check", p.time, false)::place;
    end if;
  end loop;
  if p.seq = last then return; end if;

  insert into records
    select part, p.epoch, a."offset", a."check", p.time, a.event
    from unnest(offsets, checks, events) as a("offset", "check", event) where a."offset" is not null;
  insert into ids
    select part, a.key, p.epoch, a."offset", a."check", p.time
    from unnest(hashes, offsets, checks) as a(key, "offset", "check") where a."offset" is not null
    on conflict (partition, key) do update
      set epoch = excluded.epoch, "offset" = excluded."offset", "check" = excluded."check", time = excluded.time;
  p := trim_partition(p, age, most, idempotency);
  update partitions
    set seq = p.seq, "check" = p."check", time = p.time, first = p.first, trim_at = p.trim_at where name = part;
  -- Sent at the commit, and only to wake tails: a payload is limited to 8,000 bytes, so records are read from the table.
  perform pg_notify('tidewire:' || current_schema(), concat_ws(' ', part, p.epoch, p.seq));
end $$;

-- Append to several partitions: the first counts[1] keys and events go to parts[1], the next counts[2] to parts[2], ...
-- The lock_timeout bounds the wait for an application's transaction that has published and does not end.
create function append(
  parts text[], counts integer[], keys text[], events text[], age bigint, most bigint, idempotency bigint
) returns setof place language plpgsql set search_path from current set lock_timeout = '4s' as $$
declare
  start integer := 1;
begin
  for i in 1 .. cardinality(parts) loop
    return query select * from append_to(
      parts[i], keys[start : start + counts[i] - 1], events[start : start + counts[i] - 1], age, most, idempotency
    );
    start := start + counts[i];
  end loop;
end $$;

-- The position after the last record of each partition, or before the first one at or after the time `since` (0: before
-- the oldest kept). If no record lies before it, its time is that of the log's start or of its oldest record: records of
-- other partitions since then may be unseen. A missing partition is created, since a reader's cursor needs an epoch.
create function places(names text[], since bigint default null) returns setof place
language plpgsql set search_path from current set enable_seqscan = off set jit = off set lock_timeout = '4s' as $$
declare
  p partitions;
  part text;
  low bigint;
  high bigint;
  middle bigint;
  before record;
begin
  for part in select n from unnest(names) as n where not exists (select from partitions where name = n) loop
    perform open_partition(part);
  end loop;
  for p in
    select partitions.* from unnest(names) with ordinality as wanted(name, n) join partitions using (name) order by n
  loop
    if since is not null then
      low := p.first;
      high := p.seq + 1;
      while low < high loop
        middle := (low + high) / 2;
        perform from records where partition = p.name and epoch = p.epoch and "offset" = middle and time >= since;
        if found then high := middle; else low := middle + 1; end if;
      end loop;
      if low <= p.seq then
        p.seq := low - 1;
        select r."check", r.time into before from records r
          where r.partition = p.name and r.epoch = p.epoch and r."offset" = low - 1;
        if not found then
          select '' as "check", r.time into before from records r
            where r.partition = p.name and r.epoch = p.epoch and r."offset" = low;
        end if;
        p."check" := coalesce(before."check", '');
        p.time := coalesce(before.time, 0);
      end if;
    end if;
    return next (p.name, p.epoch, p.seq, p."check", p.time, null)::place;
  end loop;
end $$;

-- The next records of one epoch of a partition: at most `most`, and at most `bytes` unless the first is larger.
create function page(part text, of_epoch bigint, after bigint, until bigint, most integer, bytes bigint)
returns setof records language sql stable begin atomic
  select partition, epoch, "offset", "check", time, event
  from (
    select *, sum(octet_length(event)) over (order by "offset") as size, row_number() over (order by "offset") as n
    from records
    where partition = part and epoch = of_epoch and "offset" > after and "offset" <= until
    order by "offset" limit most
  ) as next
  where size <= bytes or n = 1 order by "offset";
end;

-- The next records of several partitions, including those of later epochs; the limits are per partition.
create function news(parts text[], epochs bigint[], offsets bigint[], most integer, bytes bigint)
returns setof records language sql stable begin atomic
  select r.* from unnest(parts, epochs, offsets) with ordinality as seen(partition, epoch, "offset", place), lateral (
    select partition, epoch, "offset", "check", time, event
    from (
      select *, sum(octet_length(event)) over (order by epoch, "offset") as size,
        row_number() over (order by epoch, "offset") as n
      from records
      where partition = seen.partition and (epoch, "offset") > (seen.epoch, seen."offset")
      order by epoch, "offset" limit most
    ) as next
    where size <= bytes or n = 1
  ) as r
  order by place, r.epoch, r."offset";
end;

-- Trim partitions to which nothing is published, so that their records expire too. Does nothing during a publish.
create function sweep(age bigint, most bigint, idempotency bigint) returns void
language plpgsql set search_path from current as $$
declare
  p partitions;
  part text;
begin
  for part in
    select q.name from partitions q
    join records r on r.partition = q.name and r.epoch = q.epoch and r."offset" = q.first
    where r.time <= now_ms() - age limit 10
  loop
    if not pg_try_advisory_xact_lock(1953064037, log_key()) then return; end if;
    p := open_partition(part);
    p.trim_at := 0;
    p := trim_partition(p, age, most, idempotency);
    update partitions set first = p.first, trim_at = p.trim_at where name = part;
  end loop;
end $$;

-- Store the settings of realtime_publish; returns the schema's version, and whether the settings have changed.
create function configure(types text[], user_shards integer, age bigint, most bigint, idempotency bigint,
  out version integer, out changed boolean) language plpgsql set search_path from current as $$
begin
  update settings s set types = $1, user_shards = $2, age = $3, most = $4, idempotency = $5
    where (s.types, s.user_shards, s.age, s.most, s.idempotency) is distinct from ($1, $2, $3, $4, $5);
  changed := found;
  select max(number) into version from migrations;
end $$;

-- SHA-1, for the check. pgcrypto's takes 3 us; it is a trusted extension, so the owner of the database can install it.
-- Without it, the function below takes 0.2 ms.
create function sha1_in_plpgsql(message bytea) returns bytea language plpgsql immutable strict parallel safe as $$
declare
  m constant bigint := 4294967295;  -- 32 bits
  padded bytea := message || '\x80'::bytea || decode(repeat('00', (119 - length(message) % 64) % 64), 'hex')
    || int8send(length(message)::bigint * 8);
  h bigint[] := array[1732584193, 4023233417, 2562383102, 271733878, 3285377520];
  w bigint[];
  a bigint; b bigint; c bigint; d bigint; e bigint; t bigint;
begin
  for block in 0 .. length(padded) / 64 - 1 loop
    w := array(
      select ('x' || encode(substr(padded, block * 64 + i * 4 + 1, 4), 'hex'))::bit(32)::bigint & m
      from generate_series(0, 15) as i order by i
    );
    a := h[1]; b := h[2]; c := h[3]; d := h[4]; e := h[5];
    for i in 1 .. 80 loop
      if i > 16 then
        t := w[i - 3] # w[i - 8] # w[i - 14] # w[i - 16];
        w[i] := ((t << 1) | (t >> 31)) & m;
      end if;
      t := ((a << 5) | (a >> 27)) + e + w[i] + case
        when i <= 20 then ((b & c) | ((b # m) & d)) + 1518500249
        when i <= 40 then (b # c # d) + 1859775393
        when i <= 60 then ((b & c) | (b & d) | (c & d)) + 2400959708
        else (b # c # d) + 3395469782
      end;
      e := d; d := c; c := ((b << 30) | (b >> 2)) & m; b := a; a := t & m;
    end loop;
    h := array[(h[1] + a) & m, (h[2] + b) & m, (h[3] + c) & m, (h[4] + d) & m, (h[5] + e) & m];
  end loop;
  return substr(int8send(h[1]), 5) || substr(int8send(h[2]), 5) || substr(int8send(h[3]), 5)
    || substr(int8send(h[4]), 5) || substr(int8send(h[5]), 5);
end $$;

do $$
declare
  home text;
begin
  begin
    create extension if not exists pgcrypto with schema public;
  exception when others then
    raise notice 'pgcrypto cannot be installed here (%): each event takes 0.2 ms more', sqlerrm;
  end;
  select extnamespace::regnamespace into home from pg_extension where extname = 'pgcrypto';
  execute 'create function sha1(message bytea) returns bytea language sql immutable strict parallel safe as '
    || quote_literal('select ' || coalesce(home || '.digest($1, ''sha1'')', 'sha1_in_plpgsql($1)'));
end $$;
