"use strict";
// A small scheduler made with mesos-framework. It takes a master's host:port, or finds the
// leader itself where it is given zk://host:port,…/path. It runs two tasks, one that ends
// well and one that does not, says what it hears of them, and tears its framework down.
const { Scheduler, Mesos } = require("mesos-framework");
const zookeeper = require("node-zookeeper-client");
const mesos = Mesos.getMesos();

const wanted = { "well-1": "TASK_FINISHED", "badly-1": "TASK_FAILED" };

function run(host, port) {
  console.log("master", host + ":" + port);
  const task = (command) => ({
    commandInfo: new mesos.CommandInfo(null, null, true, command, null, null),
    resources: { cpus: 0.1, mem: 32, ports: 1, disk: 0 },
  });
  const scheduler = new Scheduler({
    masterUrl: host, port: port, frameworkName: "javascript", restartStates: ["TASK_LOST"],
    tasks: { well: task("test -n \"$HOST\" && sleep 0.2"), badly: task("exit 3") },
  });
  const names = {};
  const running = {};
  const left = new Set(Object.keys(wanted));
  scheduler.on("ready", () => scheduler.subscribe());
  scheduler.on("subscribed", (s) => console.log("subscribed", s.frameworkId));
  scheduler.on("error", (e) => console.log("error", e.message || e));
  scheduler.on("update", (u) => {
    scheduler.launchedTasks.forEach((t) => { names[t.taskId] = t.name; });
    const name = names[u.status.task_id.value] || u.status.task_id.value;
    console.log("update", name, u.status.state);
    if (u.status.state === "TASK_RUNNING") {
      running[name] = true;
    }
    if (u.status.state === wanted[name] && running[name] && left.delete(name) && left.size === 0) {
      scheduler.on("sent_teardown", () => { console.log("done"); process.exit(0); });
      scheduler.teardown();
    }
  });
}

const url = process.argv[2].match(/^zk:\/\/([^/]+)(\/.*)$/);
if (!url) {
  const [host, port] = process.argv[2].split(":");
  run(host, Number(port));
} else {
  const client = zookeeper.createClient(url[1]);
  client.once("connected", () => client.getChildren(url[2], (error, children) => {
    if (error) throw error;
    client.getData(url[2] + "/" + children.sort()[0], (error, data) => {
      if (error) throw error;
      const info = JSON.parse(data.toString());
      client.close();
      run(info.hostname, info.port);
    });
  }));
  client.connect();
}
