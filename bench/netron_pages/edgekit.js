// Runs inside Netron's page: hands Netron its attachment, and colours nodes that changed.
(function() {
    'use strict';

    const PREFIX = 'node-name-';
    let changes = {};

    const later = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

    const nodes = () => document.querySelectorAll(`.graph-node[id^="${PREFIX}"]`);

    const colour = () => {
        for (const element of nodes()) {
            const change = changes[element.id.slice(PREFIX.length)];
            if (change) {
                element.classList.add(`edgekit-${change}`);
            }
        }
    };

    const attach = async (attachment) => {
        const base = await import(new URL('base.js', document.baseURI));
        const bytes = new TextEncoder().encode(JSON.stringify(attachment));
        const stream = new base.BinaryStream(bytes);
        await window.__view__.attach({ identifier: 'edgekit.json', stream });
    };

    // Opens a node's properties as a click does; false where the graph on show has no such node.
    window.edgekitShow = (name) => {
        const element = Array.from(nodes()).find((node) => node.id === PREFIX + name);
        const title = element && element.querySelector('.node-item-type');
        if (!title) {
            return false;
        }
        element.scrollIntoView({ block: 'center', inline: 'center' });
        title.dispatchEvent(new MouseEvent('click', { bubbles: true }));
        return true;
    };

    const start = async () => {
        const response = await fetch('edgekit.json');
        const figures = await response.json();
        changes = figures.changes;
        while (!(window.__view__ && window.__view__.target)) {  // set once all nodes have a place
            await later(50);
        }
        await attach(figures.attachment);
        colour();
        const observer = new MutationObserver(colour);  // Netron draws anew when its view changes
        observer.observe(document.getElementById('target'), { childList: true });
        document.documentElement.dataset.edgekit = 'ready';
    };

    start().catch((error) => {
        document.documentElement.dataset.edgekit = 'failed';
        console.error(`edgekit: the figures could not be shown: ${error.message}`);
    });
})();
