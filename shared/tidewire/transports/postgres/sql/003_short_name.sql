-- Makes realtime_publish of the default prefix callable without its schema. It runs as its caller, who needs usage of
-- the schema `rt`: a host that lets every role call functions in `public` allows nothing more by that.
do $$
begin
  if current_schema() <> 'rt' then
    return;
  end if;
  create or replace function public.realtime_publish(
    type text, data json, user_ids text[] default null, id text default null
  ) returns setof rt.receipt language sql as 'select * from rt.realtime_publish($1, $2, $3, $4)';
exception when insufficient_privilege or invalid_schema_name then
  raise notice 'nothing can be created in the schema public: call rt.realtime_publish(...) by its full name';
end $$;
