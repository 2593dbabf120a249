-- Reads are refused by a server that takes no writes: a standby, or a primary that was set to read-only for a failover,
-- may lack events that were acknowledged elsewhere, which would look like a loss.

create function takes_writes() returns boolean language plpgsql stable as $$
begin
  if current_setting('transaction_read_only')::boolean then  -- on in recovery, too
    raise read_only_sql_transaction using message = 'this server is a standby, or set to read-only';
  end if;
  return true;
end $$;

-- Raise the error that an append would raise, without one. (A full disk shows only on a write.)
create function check_writable() returns void language plpgsql stable set search_path from current as $$
begin
  perform takes_writes();
  if not (
    has_table_privilege('partitions', 'select') and has_table_privilege('partitions', 'insert')
    and has_table_privilege('partitions', 'update') and has_table_privilege('records', 'select')
    and has_table_privilege('records', 'insert') and has_table_privilege('records', 'delete')
    and has_table_privilege('ids', 'select') and has_table_privilege('ids', 'insert')
    and has_table_privilege('ids', 'update') and has_table_privilege('ids', 'delete')
  ) then
    raise insufficient_privilege using message = 'the tables partitions, records and ids must be writable';
  end if;
end $$;

create or replace function page(part text, of_epoch bigint, after bigint, until bigint, most integer, bytes bigint)
returns setof records language sql stable begin atomic
  select partition, epoch, "offset", "check", time, event
  from (
    select *, sum(octet_length(event)) over (order by "offset") as size, row_number() over (order by "offset") as n
    from records
    where partition = part and epoch = of_epoch and "offset" > after and "offset" <= until
    order by "offset" limit most
  ) as next
  where takes_writes() and (size <= bytes or n = 1) order by "offset";
end;

create or replace function news(parts text[], epochs bigint[], offsets bigint[], most integer, bytes bigint)
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
  where takes_writes()
  order by place, r.epoch, r."offset";
end;

create or replace function places(names text[], since bigint default null) returns setof place
language plpgsql set search_path from current set enable_seqscan = off set jit = off set lock_timeout = '4s' as $$
declare
  p partitions;
  part text;
  low bigint;
  high bigint;
  middle bigint;
  before record;
begin
  perform takes_writes();
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

-- A clock that was far ahead for one append would stop trimming, and every search by time, until it is there again: times
-- never decrease along the offsets. A clock that stays more than a second behind the last time for 10 s, or for the
-- retention if that is shorter (measured by itself, since the last time may be the wrong one), is believed: later records
-- get the time of now. The same as append.lua, which keeps marks instead.
alter table partitions add column behind bigint;  -- when the clock was first behind `time`; null: it is not

-- Give records and ids with a time in the future the time of now, from the oldest on, 5,000 per call; the next continues.
create function turn_back(p partitions, now bigint) returns partitions language plpgsql set search_path from current as $$
declare
  bound constant bigint := 5000;
  low bigint := p.first;
  high bigint := p.seq + 1;
  middle bigint;
begin
  while low < high loop  -- the first record with a time in the future
    middle := (low + high) / 2;
    perform from records where partition = p.name and epoch = p.epoch and "offset" = middle and time > now;
    if found then high := middle; else low := middle + 1; end if;
  end loop;
  update records set time = now
    where partition = p.name and epoch = p.epoch and "offset" >= low and "offset" < low + bound;
  update ids set time = now
    where partition = p.name and epoch = p.epoch and time > now and "offset" < low + bound;
  if low + bound > p.seq then
    p.time := now;
    p.behind := null;
  end if;
  return p;
end $$;

create or replace function open_partition(part text) returns partitions
language plpgsql set search_path from current as $$
declare
  p partitions;
  now bigint;
  was bigint;
begin
  perform pg_advisory_xact_lock(1953064037, log_key());
  select * into p from partitions where name = part for update;
  if not found then
    -- New, or its counter was lost: the tables may hold rows of a history that has ended.
    delete from records where partition = part;
    delete from ids where partition = part;
    insert into partitions (name, epoch, time) select part, t, t from now_ms() as t returning * into p;
    return p;
  end if;
  now := now_ms();  -- after waiting for the lock
  was := p.behind;
  if p.time - now <= 1000 then
    p.behind := null;
  elsif was is null or now < was then
    p.behind := now;
  elsif now - was >= least((select age from settings), 10000) then
    p := turn_back(p, now);
  end if;
  p.trim_at := least(p.trim_at, now + 1000);
  if p.behind is distinct from was then
    update partitions set time = p.time, behind = p.behind where name = part;
  end if;
  return p;
end $$;

-- `error` and `open` are events of EventSource itself: a subscriber could not distinguish them. The same rules as in
-- shared/tidewire/model/event.py.
create or replace function problem(type text, data json, user_ids text[], id text) returns text language sql immutable
set search_path from current as $$
  select case
    when type is null or type !~ '^[A-Za-z0-9._-]{1,128}$' then 'type must be 1 to 128 characters of A-Z a-z 0-9 . _ -'
    when starts_with(type, 'realtime.') then 'type must not start with "realtime.": these names are reserved'
    when type in ('error', 'open')
      then 'type must not be "' || type || '": an EventSource takes it for its own event; call it by what happened'
    when data is null then 'data must be JSON, not NULL: write ''null''::json'
    when data_problem(data::text) is not null then data_problem(data::text)
    when id !~ '^[!-~]+$' or length(id) > 256 then 'id must be 1 to 256 visible ASCII characters (no spaces)'
    when cardinality(user_ids) = 0 then 'user_ids must not be empty: leave it out, or NULL, to reach everyone'
    when cardinality(user_ids) > 1000 then 'user_ids must name at most 1,000 users'
    when exists (
      select from unnest(user_ids) as u
      where u is null or length(u) not between 1 and 256 or u ~ '[\u0001-\u001f\u007f-\u009f\u2028\u2029]'
    ) then 'each of user_ids must be 1 to 256 characters without control characters'
  end
$$;
