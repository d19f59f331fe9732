// Lists the nodes that differ; a click shows one in both of Netron's pages.
(function() {
    'use strict';

    const PANES = ['before', 'after'];

    const element = (tag, properties, ...children) => {
        const made = Object.assign(document.createElement(tag), properties);
        made.append(...children);
        return made;
    };

    const mark = (change) => element('span', { className: `mark ${change}`, ariaHidden: 'true' });

    const show = (node) => {
        for (const pane of PANES) {
            const page = document.getElementById(pane).contentWindow;
            if (node[pane] !== null && page.edgekitShow) {
                page.edgekitShow(node[pane]);
            }
        }
    };

    const entry = (node) => {
        const name = node.after === null ? node.before : node.after;
        const button = element('button', { type: 'button' }, mark(node.change), name);
        button.append(element('small', {}, [`${node.op_type} ${node.change}`, ...node.reasons].join('; ')));
        button.addEventListener('click', () => show(node));
        return element('li', { className: node.change }, button);
    };

    const start = async () => {
        const response = await fetch('/edgekit/compare.json');
        const diff = await response.json();
        for (const pane of PANES) {
            document.getElementById(`${pane}-title`).textContent = `${pane}: ${diff[pane]}`;
        }
        for (const [change, count] of Object.entries(diff.counts)) {
            document.getElementById('legend').append(element('li', {}, mark(change), `${count} ${change}`));
        }
        const differing = diff.nodes.filter((node) => node.change !== 'same');
        const entries = differing.length > 0 ? differing.map(entry) : [element('li', {}, 'No node differs.')];
        document.getElementById('nodes').append(...entries);
    };

    start();
})();
