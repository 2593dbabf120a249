// Tasks, live, in React: <Tasks key={user} …/>, because its state is one user's. `tidewire/react` is site/react.js, by an
// alias of your bundler, or a path to your copy.
import { useEffect, useState } from "react";
import { useRealtime } from "tidewire/react";

export function Tasks({ user, fetchToken, fetchTasks }) {
  const [tasks, setTasks] = useState({});
  const { state, gaps } = useRealtime({
    user, // another one closes the stream at once
    token: fetchToken,
    types: ["task-updated"],
    onEvent: ({ data }) => setTasks((known) => ({ ...known, [data.id]: data })),
  });
  useEffect(() => {
    let isWanted = true;
    fetchTasks(user).then((list) => isWanted && setTasks(Object.fromEntries(list.map((task) => [task.id, task]))));
    return () => { isWanted = false; };
  }, [fetchTasks, user, gaps]); // at the start, and where something was missed

  return (
    <>
      <ul>{Object.values(tasks).map(({ id, title }) => <li key={id}>{title}</li>)}</ul>
      <p role="status">{state}</p>
    </>
  );
}
