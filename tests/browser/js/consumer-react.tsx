// A component in strict TypeScript.
import { useState } from "react";
import { useRealtime } from "./site/react.js";

interface Task { id: number; status: string }
type Events = { "task-updated": Task };

export function Tasks({ user, fetchToken }: { user: string; fetchToken: () => Promise<string> }) {
  const [tasks, setTasks] = useState<Record<number, Task>>({});
  const { state, failure, last, retry } = useRealtime<Events>({
    user,
    token: fetchToken,
    types: ["task-updated"],
    trackLast: true,
    onEvent: ({ data }) => setTasks((known) => ({ ...known, [data.id]: data })),
  });
  const status: string | undefined = last?.data.status;
  return <button onClick={retry}>{state} {failure?.message} {status} {Object.keys(tasks).length}</button>;
}

export function Anonymous() {
  return <p>{useRealtime().state}</p>;
}

export function WithText({ token }: { token: string | undefined }) {
  return <p>{useRealtime({ token, enabled: token !== undefined }).gaps}</p>;
}

export function Unsafe({ fetchToken }: { fetchToken: () => Promise<string> }) {
  // @ts-expect-error a token function requires `user`
  return <p>{useRealtime({ token: fetchToken }).state}</p>;
}
