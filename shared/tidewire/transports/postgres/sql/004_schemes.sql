-- Partition schemes: an append is refused if the writer does not know all that are in use
-- (shared/tidewire/model/partition_schemes.py), and an id identifies an event within its type and source. append and
-- append_to stay for processes of an older release.

create type answer as (
  partition text, epoch bigint, "offset" bigint, "check" text, time bigint, duplicate boolean, elsewhere text
);

-- The check of the control partition's last record, '' while it has none.
create function schemes_check() returns text
language sql stable set search_path from current set enable_seqscan = off set jit = off as $$
  select coalesce((select "check" from partitions where name = 'realtime.schemes'), '')
$$;

-- Append events to one partition: each at most once, at contiguous offsets. One row per event, in their order. `scopes`
-- identify duplicates; the check is computed over `chained`; `others` are the event's partitions under other schemes, each
-- as the partition, a space and SHA-256 of the scope, separated by commas: an event that is known only there is not
-- appended, and `elsewhere` has its positions.
create function append_scoped_to(
  part text, scopes text[], chained text[], events text[], others text[], age bigint, most bigint, idempotency bigint
) returns setof answer language plpgsql set search_path from current set enable_seqscan = off set jit = off as $$
declare
  p partitions := open_partition(part);
  now bigint := now_ms();  -- after waiting for the lock
  last bigint := p.seq;
  hashes bytea[] := array(
    select sha256(convert_to(scope, 'UTF8')) from unnest(scopes) with ordinality as k(scope, n) order by n
  );
  offsets bigint[] := array_fill(null::bigint, array[cardinality(scopes)]);
  checks text[] := array_fill(null::text, array[cardinality(scopes)]);
  item record;
  known ids;
  found_elsewhere text;
begin
  p.time := greatest(p.time, now);
  for item in
    select c.text as chained, hash, other, n, min(n) over (partition by hash) as first
    from unnest(chained, hashes, others) with ordinality as c(text, hash, other, n) order by n
  loop
    select * into known from ids
      where partition = part and key = item.hash and epoch = p.epoch and time > now - idempotency;
    if found then
      return next (part, p.epoch, known."offset", known."check", known.time, true, null)::answer;
      continue;
    elsif offsets[item.first] is not null then
      return next (part, p.epoch, offsets[item.first], checks[item.first], p.time, true, null)::answer;
      continue;
    end if;
    found_elsewhere := null;
    if item.other <> '' then
      select string_agg(concat_ws(' ', o.n, i.epoch, i."offset", i."check", i.time), ',') into found_elsewhere
        from unnest(string_to_array(item.other, ',')) with ordinality as o(place, n)
        join ids i on i.partition = split_part(o.place, ' ', 1) and i.key = decode(split_part(o.place, ' ', 2), 'hex')
        join partitions q on q.name = i.partition and q.epoch = i.epoch
        where i.time > now - idempotency;
    end if;
    if found_elsewhere is not null then
      return next (part, null, null, null, null, true, found_elsewhere)::answer;
      continue;
    end if;
    p.seq := p.seq + 1;
    p."check" := left(encode(sha1(convert_to(p."check" || item.chained, 'UTF8')), 'hex'), 8);
    if p."check" = '00000000' then p."check" := '00000001'; end if;  -- zero means "unknown"
    offsets[item.n] := p.seq;
    checks[item.n] := p."check";
    return next (part, p.epoch, p.seq, p."check", p.time, false, null)::answer;
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

-- Append to several partitions: the first counts[1] events go to parts[1], the next counts[2] to parts[2], ... No row if
-- the control partition has another check than `expected`: then nothing was appended.
-- The lock_timeout bounds the wait for an application's transaction that has published and does not end.
create function append_scoped(
  parts text[], counts integer[], scopes text[], chained text[], events text[], others text[], expected text,
  age bigint, most bigint, idempotency bigint
) returns setof answer language plpgsql set search_path from current set lock_timeout = '4s' as $$
declare
  start integer := 1;
  stop integer;
begin
  perform pg_advisory_xact_lock(1953064037, log_key());  -- as in open_partition: no scheme is announced until the transaction ends
  if schemes_check() is distinct from expected then return; end if;
  for i in 1 .. cardinality(parts) loop
    stop := start + counts[i] - 1;
    return query select * from append_scoped_to(
      parts[i], scopes[start : stop], chained[start : stop], events[start : stop], others[start : stop],
      age, most, idempotency
    );
    start := stop + 1;
  end loop;
end $$;

-- Trim partitions to which nothing is published, so that their records expire too. Does nothing during a publish.
create or replace function sweep(age bigint, most bigint, idempotency bigint) returns void
language plpgsql set search_path from current as $$
declare
  p partitions;
  part text;
begin
  for part in
    select q.name from partitions q
    join records r on r.partition = q.name and r.epoch = q.epoch and r."offset" = q.first
    where r.time <= now_ms() - age and q.name <> 'realtime.schemes' limit 10
  loop
    if not pg_try_advisory_xact_lock(1953064037, log_key()) then return; end if;
    p := open_partition(part);
    p.trim_at := 0;
    p := trim_partition(p, age, most, idempotency);
    update partitions set first = p.first, trim_at = p.trim_at where name = part;
  end loop;
end $$;

-- Store the settings of realtime_publish; returns the schema's version, whether the settings have changed, the check of
-- the control partition, and the time: realtime_publish uses these settings for appends after it.
drop function configure(text[], integer, bigint, bigint, bigint);
create function configure(types text[], user_shards integer, age bigint, most bigint, idempotency bigint,
  out version integer, out changed boolean, out schemes text, out began bigint)
language plpgsql set search_path from current as $$
begin
  began := now_ms();
  update settings s set types = $1, user_shards = $2, age = $3, most = $4, idempotency = $5
    where (s.types, s.user_shards, s.age, s.most, s.idempotency) is distinct from ($1, $2, $3, $4, $5);
  changed := found;
  schemes := schemes_check();
  select max(number) into version from migrations;
end $$;

-- The announced schemes, including those that are no longer in use.
create function announced_schemes() returns table (types text[], user_shards integer)
language sql stable set search_path from current set enable_seqscan = off set jit = off as $$
  select distinct array(select jsonb_array_elements_text(data -> 'types') order by 1), (data ->> 'userShards')::integer
  from (
    select r.event::jsonb -> 'data' as data
    from records r join partitions p on p.name = r.partition and p.epoch = r.epoch
    where r.partition = 'realtime.schemes'
  ) as announced
$$;

-- The partitions of an event under a scheme, the users of each, and SHA-256 of the event's scope there: the same as
-- Partitions.route and Partitions.scope.
create function route(key text, type text, user_ids text[], types text[], user_shards integer)
returns table (partition text, users text[], scope text, hash bytea) language sql stable set search_path from current as $$
  with audience as (
    select u, min(n) as n, case when type = any (types) then type else 'all' end as base
    from unnest(coalesce(user_ids, array[null::text])) with ordinality as named(u, n) group by u
  ), sharded as (
    select *, case when user_shards > 0 and u is not null then base || ':u' || shard_of(u, user_shards) else base end
      as shard
    from audience
  ), spread as (
    select count(distinct shard) > 16 as wide from sharded
  ), routed as (
    select case when wide then base else shard end as name, array_agg(u order by n) filter (where u is not null) as who,
      min(n) as first
    from sharded, spread group by 1
  ), scoped as (
    select *, case when name like '%:%' then user_shards || ' ' || key else key end as text from routed
  )
  select name, who, text, sha256(convert_to(text, 'UTF8')) from scoped order by first
$$;

-- Runs as its owner: `grant usage on schema <prefix> to <role>` lets a role publish, and nothing else.
create or replace function realtime_publish(
  type text, data json, user_ids text[] default null, id text default null
) returns setof receipt language plpgsql security definer
set search_path from current set enable_seqscan = off set jit = off as $$
declare
  s settings;
  wrong text := problem(type, data, user_ids, id);
  event_id text := coalesce(id, new_id());
  key text := type || ' ' || event_id;
  target record;
  other record;
  event text;
  served boolean;
begin
  if wrong is not null then
    raise exception using errcode = 'invalid_parameter_value', message = 'realtime_publish: ' || wrong;
  end if;
  perform open_partition('realtime.schemes');  -- locks: no scheme is announced until the transaction ends
  select * into strict s from settings;
  for target in select r.* from route(key, type, user_ids, s.types, s.user_shards) as r loop
    served := false;
    if not exists (
      select from ids i join partitions q on q.name = i.partition and q.epoch = i.epoch
      where i.partition = target.partition and i.key = target.hash and i.time > now_ms() - s.idempotency
    ) then
      for other in
        select distinct on (i.partition, i.key) i.*, r.users
        from announced_schemes() as a, route(key, type, user_ids, a.types, a.user_shards) as r
        join ids i on i.partition = r.partition and i.key = r.hash and i.time > now_ms() - s.idempotency
        join partitions q on q.name = i.partition and q.epoch = i.epoch
        where (r.partition, r.hash) <> (target.partition, target.hash)
          and (target.users is null or r.users && target.users)
      loop
        return next (event_id, other.partition, other.epoch, other."offset", other."check", other.time, true)::receipt;
        served := true;
        target.users := array(select u from unnest(target.users) with ordinality as t(u, n)
          where u <> all (coalesce(other.users, '{}')) order by n);
      end loop;
    end if;
    continue when served and cardinality(target.users) = 0;
    event := concat('{"id":', to_json(event_id), ',"type":', to_json(type), ',"data":', data,
      ',"userIds":' || to_json(target.users), '}');
    if octet_length(event) > 262144 then
      raise exception using errcode = 'invalid_parameter_value',
        message = 'realtime_publish: an event may have at most 256 KiB';
    end if;
    return query select event_id, a.partition, a.epoch, a."offset", a."check", a.time, a.duplicate from append_scoped_to(
      target.partition, array[target.scope], array[event_id], array[event], array[''], s.age, s.most, s.idempotency
    ) as a;
  end loop;
end $$;
